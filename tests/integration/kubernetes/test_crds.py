"""An API server takes the documents that mlsched takes, and tells what is wrong with others."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from mlsched.adapters.nvml.documents import parse_document
from mlsched.model.inventory import Inventory
from mlsched.model.jobs import Attempt, EndCause, GroupPlacement, JobState, Outcome
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import JobSpec
from mlsched.specs.documents import JobDocument, load_document, to_document
from mlsched.specs.records import Identity, jobs_from, status_from
from mlsched.specs.sources import read_submission
from mlsched.specs.statuses import JobStatus
from mlsched.specs.trees import parse_tree
from tests.controlplane import controllers
from tests.controlplane.planes import ApiError, ControlPlane
from tests.property.specs.test_documents import documents

pytestmark = pytest.mark.needs_controlplane
ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
STRICT = "?dryRun=All&fieldValidation=Strict"
_COUNTER = itertools.count()


@pytest.fixture(scope="module")
def crd_plane(plane: ControlPlane) -> ControlPlane:
    controllers.install(plane)
    return plane


@pytest.fixture
def create(
    crd_plane: ControlPlane, new_namespace: Callable[[ControlPlane], str]
) -> Callable[[dict[str, Any]], Any]:
    """Try to create an MLJob; an API error when the API server refuses it."""
    path = controllers.JOBS.format(new_namespace(crd_plane))

    def run(document: dict[str, Any], query: str = STRICT) -> Any:
        metadata = {k: v for k, v in document.get("metadata", {}).items() if k != "namespace"}
        metadata.setdefault("name", f"job-{next(_COUNTER)}")
        return crd_plane.api("POST", path + query, {**document, "metadata": metadata})

    return run


def job(**spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob"}
    return {**head, "metadata": {}, "spec": {"command": ["true"], **spec}}


TAKEN = [
    job(),
    job(command="python train.py", args=["--lr", "0.1"]),
    {**job(), "spec": {"script": "#!/bin/sh\ntrue\n", "args": ["a"]}},
    job(memoryPerNode="64Gi", cpusPerTask=0.5, gpusPerNode=2, timeLimit="2h"),
    job(memoryPerNode=1024, cpusPerTask=4, cpusPerGpu="1.5", gpuMemoryMin=2**40),
    job(memoryPerNode="all", cpusPerTask="500m", gpuMemoryMin="80GB", priority="high"),
    job(array="0-9%4", after=["a", "b:any", {"job": "c"}], signal="B:USR1@120"),
    job(array={"first": 0, "last": 9}, signal={"name": "USR2", "to": "shell"}, priority=-3),
    job(array={"indices": [1, 5]}, env={"A": "1"}, labels={"team": "nlp"}, mig=False),
    job(script=""),
    job(gpus=4, gpusPerNode=2, nodes=2, queue="a_b.C", queues=["d"]),
    job(image="registry.example.org/a:1", layer="gpu", nodeSelector={"pool": "a"}),
    job(tolerations=[{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]),
]

REFUSED = {
    "unknown field": (job(gpusPerNod=1), 'unknown field "spec.gpusPerNod"'),
    "nothing to run": ({**job(), "spec": {}}, "spec.command: Required value"),
    "two programs": (job(script="#!/bin/sh\n"), "one and only one schema"),
    "no shebang": ({**job(), "spec": {"script": "true"}}, "spec.script.*no shebang"),
    "too few nodes": (job(nodes=0), "spec.nodes in body should be greater than or equal to 1"),
    "text for a number": (job(nodes="2"), "spec.nodes: Invalid value: .*integer"),
    "number for text": (job(env={"A": 1}), "spec.env.A: Invalid value: .*string"),
    "priority": (job(priority="urgent"), r"spec.priority in body should match .*\(low"),
    "memory": (job(memoryPerNode="lots"), "spec.memoryPerNode in body should match"),
    "memory of no kind": (job(memoryPerNode=[1]), "spec.memoryPerNode: Invalid value"),
    "cpus": (job(cpusPerTask="many"), "spec.cpusPerTask in body should match"),
    "cpus of no kind": (job(cpusPerTask={"a": 1}), "spec.cpusPerTask.*anyOf"),
    "no cpus": (job(cpusPerTask=0), "spec.cpusPerTask in body should be greater than 0"),
    "command of no kind": (job(command=3), "spec.command.*anyOf"),
    "word that is no text": (job(command=["a", 1]), r"spec.command\[1\].*string"),
    "array of no kind": (job(array=5), "spec.array.*anyOf"),
    "array": (job(array="a-b"), "spec.array in body should match"),
    "array index": (job(array={"first": -1, "last": 2}), "spec.array.first.*greater"),
    "signal": (job(signal={"to": "all"}), "spec.signal.to: Unsupported value"),
    "after text": (job(after="a"), "spec.after: Invalid value: .*array"),
    "after without a job": (job(after=[{"condition": "ok"}]), r"spec.after\[0\].job: Required"),
    "after of no kind": (job(after=[1]), r"spec.after\[0\].*anyOf"),
    "launch": (job(launch="twice"), 'Unsupported value: "twice"'),
    "both times": (job(timeLimit="1h", timeLimitSeconds=9), "say the same: keep one"),
    "both memories": (job(memoryPerNode="1Gi", memoryPerGpu="1Gi"), "exclude each other"),
    "mig without profile": (job(mig=True), "spec.mig.*needs the profile"),
    "gpus": (job(gpus=3, gpusPerNode=2), "spec.gpus.*leave one out"),
    "name with a dot": ({**job(), "metadata": {"name": "a.b"}}, "the name of a job"),
    "long name": ({**job(), "metadata": {"name": "a" * 64}}, "the name of a job"),
}


@pytest.mark.parametrize("document", TAKEN)
def test_every_form_of_a_document_is_taken(document: dict[str, Any], create: Any) -> None:
    load_document(document)
    create(document)


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_wrong_is_told(which: str, create: Any) -> None:
    document, message = REFUSED[which]
    with pytest.raises(ApiError, match=message):
        create(document)


def test_documents_of_the_guides_are_taken(create: Any) -> None:
    found = 0
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if "kind: MLJob" in block:
                create(parse_tree(block, source=page.name))
                found += 1
    assert found


@pytest.mark.needs_shared
def test_batch_scripts_are_taken_as_documents(create: Any) -> None:
    taken = 0
    for path in sorted(SHARED.glob("cases/sbatch/*.sh")):
        try:
            one = read_submission(str(path))
        except Exception:  # noqa: BLE001 - cases that mlsched refuses say nothing here
            continue
        create(to_document(one.document.spec, one.document.metadata, named=one.named))
        taken += 1
    assert taken > 10


def test_whatever_mlsched_writes_is_taken(create: Any) -> None:
    @settings(max_examples=150)
    @given(documents())
    def law(document: JobDocument) -> None:
        create(to_document(document.spec, document.metadata))

    law()


def test_a_spec_cannot_be_changed_and_a_status_can(create: Any, crd_plane: ControlPlane) -> None:
    made = create(job(array="0-3", cpusPerTask=0.5), query="")
    metadata = made["metadata"]
    path = f"{controllers.JOBS.format(metadata['namespace'])}/{metadata['name']}"
    for change in ({"nodes": 2}, {"array": "0-4"}, {"cpusPerTask": 1}, {"command": ["false"]}):
        with pytest.raises(ApiError, match="the spec of a job cannot be changed"):
            crd_plane.api("PATCH", path, {"spec": change})
    annotated = crd_plane.api("PATCH", path, {"metadata": {"annotations": {"a": "b"}}})
    assert annotated["metadata"]["annotations"] == {"a": "b"}
    changed = crd_plane.api("PATCH", f"{path}/status", {"status": {"state": "RUNNING"}})
    assert changed["status"]["state"] == "RUNNING"
    with pytest.raises(ApiError, match=r'status\.state: Unsupported value: "LATE"'):
        crd_plane.api("PATCH", f"{path}/status", {"status": {"state": "LATE"}})


def test_nothing_of_a_status_is_lost(create: Any, crd_plane: ControlPlane) -> None:
    made = create(job(), query="")
    name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
    identity = Identity(namespace, name, made["metadata"]["creationTimestamp"])
    (fresh,) = jobs_from(identity, JobSpec(command=("true",)), None, 1)
    held = (GroupPlacement("node-a", 500, 2**40, ("GPU-1", "GPU-2")),)
    outcome = Outcome(EndCause.SIGNALLED, 137, 9, 3, "killed", 1_700_000_000_123, 42)
    attempts = (
        Attempt(1, 1_700_000_000_001, outcome, (GroupPlacement("node-b", 0, 0),), "alone there"),
        Attempt(2, None, None, held, "fits"),
    )
    evidence: dict[str, str | int | list[str]] = {"free": 1, "by": ["a", "b"], "of": "gpu"}
    one = replace(
        fresh,
        state=JobState.STARTING,
        reason=Reason(ReasonCode.STARTING, "is being started", evidence),
        attempt=2,
        attempts=attempts,
        placements=held,
        retries_used=1,
        cancel_grace_s=0,
    )
    status = status_from([one], None, generation=1, epoch=7, now_ms=1_700_000_000_999)
    body = {"status": msgspec.to_builtins(status)}
    path = f"{controllers.JOBS.format(namespace)}/{name}/status?fieldValidation=Strict"
    stored = crd_plane.api("PATCH", path, body)["status"]
    assert msgspec.convert(stored, JobStatus) == status
    crd_plane.api("PATCH", path, {"status": msgspec.to_builtins(replace(status, epoch=8))})


def test_kubectl_shows_what_matters_of_a_job(create: Any, crd_plane: ControlPlane) -> None:
    made = create(job(gpus=2, queue="night"), query="")
    name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
    status = {"state": "RUNNING", "reason": "Running", "gpus": 2, "nodes": ["a"], "exitCode": 0}
    path = f"{controllers.JOBS.format(namespace)}/{name}/status"
    crd_plane.api("PATCH", path, {"status": status})
    shown = crd_plane.kubectl("get", "mlj", "-n", namespace, "-o", "wide")
    head, row = (re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()[:2])
    assert head[:5] == ["NAME", "STATE", "REASON", "GPUS", "NODES"]
    assert row[:5] == [name, "RUNNING", "Running", "2", '["a"]']
    words = ("get", "mljobs", "-n", namespace, "-o", "name", "--field-selector")
    assert crd_plane.kubectl(*words, "spec.queue=night,status.state=RUNNING").strip() != ""
    assert crd_plane.kubectl(*words, "status.state=FAILED").strip() == ""


@pytest.mark.needs_shared
def test_the_inventories_of_real_machines_are_kept_whole(crd_plane: ControlPlane) -> None:
    """By PUT: a merge patch takes null as the order to drop a key, and readings hold null."""
    path = "/apis/mlsched.io/v1alpha1/gpunodes"
    head = {"apiVersion": "mlsched.io/v1alpha1", "kind": "GPUNode"}
    for number, file in enumerate(sorted(SHARED.glob("nvsmi/*.xml"))):
        inventory = parse_document(file.read_bytes(), 1_700_000_000_000)
        made = crd_plane.api("POST", path, {**head, "metadata": {"name": f"node-{number}"}})
        status = {"inventory": inventory, "publishedAt": "2026-01-01T00:00:00Z"}
        body = msgspec.json.decode(msgspec.json.encode({**made, "status": status}))
        query = "status?fieldValidation=Strict"
        answer = crd_plane.api("PUT", f"{path}/node-{number}/{query}", body)["status"]
        assert answer == body["status"]
        assert msgspec.convert(answer["inventory"], Inventory) == inventory
