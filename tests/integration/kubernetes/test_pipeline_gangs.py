"""Pipelines on clusters that are jobs, on real nodes: data on a real S3, a secret for the pods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import NotFoundError
from mlsched_pipelines import open_dataset
from tests.controlplane import pipeline_images, ray_images
from tests.controlplane.controllers import ENDED, Jobs
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane
from tests.storage.ceph import Gateway
from tests.storage.fixtures import bucket, gateway, use_s3
from tests.storage.forwarders import forwarded

pytestmark = [
    pytest.mark.needs_nodes,
    pytest.mark.needs_ray,
    pytest.mark.needs_ceph,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]
__all__ = ["bucket", "gateway", "use_s3"]

Until = Callable[..., Any]
END_S_MAX = 180

FILE = """
import time
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from mlsched_pipelines import Plan, csv
from mlsched_pipelines.stores import open_store

SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.float64())])

def wait_at_gate(folder, batch):
    # Rows behind the first of all wait until there is an object.
    until_s = time.monotonic() + 120
    while batch.column("id")[0].as_py() and time.monotonic() < until_s:
        try:
            open_store(folder).read("gate")
        except FileNotFoundError:
            time.sleep(0.2)
        else:
            break
    return batch

def scale(batch):
    return {"id": batch.column("id"), "value": pc.multiply(batch.column("value"), 2.0)}

def daily(bucket: str, out: str, gate: str = "") -> Plan:
    rows = Plan.scan(csv(f"s3://{bucket}/in.csv", SCHEMA, split_bytes=2000))
    if gate:
        wait = partial(wait_at_gate, f"s3://{bucket}/{gate}")
        rows = rows.map_batches(wait, schema=SCHEMA, identity="wait")
    return rows.map_batches(scale, schema=SCHEMA).write(f"s3://{bucket}/{out}")
"""


@pytest.fixture(scope="module")
def pipeline_nodes(scheduled_nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    """The real nodes with the image of pipelines."""
    archive = pipeline_images.pack(tmp_path_factory.mktemp("image"))
    for name in ("node-a", "node-b"):
        scheduled_nodes[name].add_image(ray_images.archive())
        scheduled_nodes[name].add_image(archive)
    return scheduled_nodes


@pytest.fixture
def jobs(pipeline_nodes: Nodes, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    return Jobs(pipeline_nodes.plane, new_namespace(pipeline_nodes.plane))


@pytest.fixture
def project(
    pipeline_nodes: Nodes,
    jobs: Jobs,
    gateway: Gateway,
    bucket: str,
    use_s3: Callable[..., None],
    tmp_path: Path,
) -> Iterator[Project]:
    use_s3(**gateway.environment())
    lines = [f"{i},{i / 8}" for i in range(1000)]
    body = ("id,value\n" + "\n".join(lines) + "\n").encode()
    gateway.client().put_object(Bucket=bucket, Key="in.csv", Body=body)
    with forwarded(pipeline_nodes.gateway, gateway.endpoint) as endpoint:
        project = Project(tmp_path, jobs, endpoint, bucket)
        project.add_secret("s3-keys", gateway.environment())
        yield project


class Project:
    """A pipeline on a laptop that reaches a cluster, and the S3 that both reach."""

    def __init__(self, path: Path, jobs: Jobs, endpoint: str, bucket: str) -> None:
        self.path, self.jobs, self.endpoint, self.bucket = path, jobs, endpoint, bucket
        (path / "rides.py").write_text(FILE)
        kept = {name: text for name, text in os.environ.items() if not name.startswith("MLSCHED_")}
        self.env = {**kept, "HOME": str(path), "KUBECONFIG": str(jobs.plane.admin_kubeconfig)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command line on the laptop."""
        argv = [sys.executable, "-m", "mlsched", *words]
        return subprocess.run(
            argv, cwd=self.path, env=self.env, text=True, capture_output=True,
            timeout=END_S_MAX, check=False,
        )  # fmt: skip

    def submit(self, name: str, *options: str) -> str:
        """Submit the pipeline to the cluster; what it printed."""
        found = self.run(
            "-c", "admin", "pipeline", "submit", "rides.py:daily", "--name", name,
            "--namespace", self.jobs.namespace, "--image", pipeline_images.PIPELINES,
            "--set", f"bucket={self.bucket}", "--set", f"out={name}",
            "--cpus-per-node", "1.2", "--env", f"AWS_ENDPOINT_URL_S3={self.endpoint}",
            "--env-secret", "s3-keys", *options,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout + found.stderr

    def add_secret(self, name: str, entries: dict[str, str]) -> None:
        """Put a secret into the namespace."""
        metadata = {"name": name, "namespace": self.jobs.namespace}
        body = {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "stringData": entries}
        self.jobs.plane.api("POST", self._secrets, body)

    def tokens(self) -> list[dict[str, Any]]:
        """The secrets of gangs in the namespace."""
        found = self.jobs.plane.api("GET", self._secrets)["items"]
        return [one for one in found if one["metadata"].get("ownerReferences")]

    @property
    def _secrets(self) -> str:
        return f"/api/v1/namespaces/{self.jobs.namespace}/secrets"

    def open_gate(self, gateway: Gateway) -> None:
        """Let the rows pass that wait."""
        gateway.client().put_object(Bucket=self.bucket, Key="open/gate", Body=b"")


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_pipeline_runs_on_a_cluster_of_two_nodes(
    project: Project, gateway: Gateway, until: Until, engine: str
) -> None:
    jobs = project.jobs
    told = project.submit("rides", "--engine", engine, "--nodes", "2", "-o", "json")
    assert '"name": "rides"' in told
    until(lambda: len(jobs.pods()) == 2, 60)
    (secret,) = project.tokens()
    assert secret["metadata"]["ownerReferences"][0]["kind"] == "MLJob"
    token = secret["data"]["token"]
    for pod in jobs.pods().values():
        (variable,) = [
            one
            for one in pod["spec"]["containers"][0]["env"]
            if one["name"] == "MLSCHED_GANG_TOKEN"
        ]
        assert variable["valueFrom"]["secretKeyRef"]["name"] == secret["metadata"]["name"]
    until(lambda: jobs.state("rides") in ENDED, END_S_MAX)
    logs = {name: _log(jobs, name) for name in jobs.pods()}
    assert jobs.state("rides") == "SUCCEEDED", (jobs.status("rides"), logs)
    until(lambda: project.tokens() == [], 20)

    nodes = {pod["spec"]["nodeName"] for pod in jobs.pods().values()}
    assert nodes == {"node-a", "node-b"}
    found = project.run("pipeline", "run", "rides.py:daily", "--set", f"bucket={project.bucket}",
                        "--set", "out=local")  # fmt: skip
    assert found.returncode == 0, found.stderr
    here = open_dataset(f"s3://{project.bucket}/local")
    assert open_dataset(f"s3://{project.bucket}/rides").digest == here.digest
    summary = json.loads(logs["rides-1-0"][logs["rides-1-0"].index("{") :])
    assert summary["counts"]["rows_out"] == 1000
    told = json.dumps([jobs.get("rides"), jobs.pods(), logs])
    assert token not in told
    assert gateway.environment()["AWS_SECRET_ACCESS_KEY"] not in told


def submit_gated(project: Project, until: Until, gateway: Gateway, engine: str) -> None:
    """A run that waits at a gate after the first of its tasks."""
    options = ("--nodes", "2", "--retries", "1", "--set", "gate=open", "-o", "json")
    project.submit("gated", "--engine", engine, *options)

    def has_done_one() -> bool:
        found = gateway.client().list_objects_v2(Bucket=project.bucket, Prefix="gated/")
        return any(one["Key"].endswith(".done") for one in found.get("Contents", []))

    until(has_done_one, END_S_MAX)


def test_a_pod_that_is_killed_costs_an_attempt_and_no_task_that_was_done(
    project: Project, until: Until, gateway: Gateway
) -> None:
    jobs = project.jobs
    submit_gated(project, until, gateway, "dask")
    path = f"/api/v1/namespaces/{jobs.namespace}/pods/gated-1-1"
    jobs.plane.api("DELETE", path, {"gracePeriodSeconds": 0})
    project.open_gate(gateway)
    until(lambda: jobs.state("gated") in ENDED, END_S_MAX)
    log = _log(jobs, "gated-2-0")
    assert jobs.state("gated") == "SUCCEEDED", (jobs.status("gated"), log)
    summary = json.loads(log[log.index("{") :])
    assert summary["tasks_resumed"] > 0
    assert summary["counts"]["rows_out"] == 1000
    until(lambda: project.tokens() == [], 20)


def test_a_cluster_that_is_cancelled_leaves_no_pod_secret_or_dataset(
    project: Project, until: Until, gateway: Gateway
) -> None:
    jobs = project.jobs
    submit_gated(project, until, gateway, "ray")
    jobs.cancel("gated", "5s")
    until(lambda: jobs.state("gated") == "CANCELLED", 60)
    until(lambda: not jobs.pods() and project.tokens() == [], 60)
    with pytest.raises(NotFoundError, match="no dataset"):
        open_dataset(f"s3://{project.bucket}/gated")


def _log(jobs: Jobs, pod: str) -> str:
    return jobs.log(pod, f"rank-{pod.rpartition('-')[2]}")


def test_what_only_this_machine_has_is_warned_of(project: Project) -> None:
    (project.path / "here.py").write_text(FILE.replace('f"s3://{bucket}/{out}")', "out)"))
    found = project.run(
        "-c", "admin", "pipeline", "submit", "here.py:daily", "--name", "here",
        "--namespace", project.jobs.namespace, "--image", "none:1",
        "--set", f"bucket={project.bucket}", "--set", "out=data",
    )  # fmt: skip
    assert "is a path: all nodes must share it" in found.stderr
    (project.path / "large.py").write_text(FILE + "#" * 300_000)
    found = project.run("-c", "admin", "pipeline", "submit", "large.py:daily", "--no-check")
    assert "200 KiB of text travel" in found.stderr
    assert found.returncode == 2
