"""What users write amiss, carelessly or to harm, ends no controller and keeps no others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from mlsched.adapters.kubernetes.gangs import (
    KUEUE_COUNT,
    KUEUE_GROUP,
    VOLCANO_COUNT,
    VOLCANO_GROUP,
)
from tests.controlplane.controllers import Jobs
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ApiError, ControlPlane
from tests.controlplane.spawned import blunders

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

Until = Callable[..., Any]
LARGE = "9" * 5000
JOB: dict[str, Any] = {"command": ["none"], "image": "none"}

PODS: dict[str, dict[str, Any]] = {
    "endless-gang": {"annotations": {VOLCANO_GROUP: "g", VOLCANO_COUNT: LARGE}},
    "negative-gang": {"annotations": {VOLCANO_GROUP: "h", VOLCANO_COUNT: "-1"}},
    "no-gang": {"labels": {KUEUE_GROUP: "i", KUEUE_COUNT: "0"}},
    "of-nobody": {"labels": {"mlsched.io/job": "x", "mlsched.io/job-uid": "y",
                             "mlsched.io/attempt": "9" * 63, "mlsched.io/group": "9" * 63}},
    "huge": {"amounts": {"cpu": "9223372036854775807", "memory": "8Ei", "nvidia.com/gpu": "1E"}},
    "tiny": {"amounts": {"cpu": "1n", "memory": "1m"}},
    "nothing": {"amounts": {"cpu": "0", "nvidia.com/gpu": "0"}},
    "choosy": {"spec": {"nodeSelector": {"a" * 63: "b" * 63}}},
    "tolerant": {"spec": {"tolerations": [{"operator": "Exists", "tolerationSeconds": -1,
                                           "effect": "NoExecute"}]}},
}  # fmt: skip
"""Pods that say ``schedulerName: mlsched``, as an API server takes them."""

MLJOBS: dict[str, dict[str, Any]] = {
    "endless-grace": {"annotations": {"mlsched.io/cancel": LARGE}},
    "odd-elements": {"annotations": {"mlsched.io/cancel-elements": f"{LARGE},1-{LARGE},x:y,-"},
                     "spec": {"array": "0-3", "nodes": 3}},
    "after-itself": {"spec": {"after": ["after-itself"]}},
    "circle-a": {"spec": {"after": ["circle-b"]}},
    "circle-b": {"spec": {"after": ["circle-a"]}},
    "after-odd": {"spec": {"after": ["[]", "x[99999999999999999999]", "a/b", "..", "any:"]}},
    "two-sizes": {"spec": {"memoryPerNode": "1Gi", "memoryPerCpu": "1Gi"}},
    "no-room": {"spec": {"nodes": 1500, "gpusPerNode": 1000}},
    "odd-name": {"annotations": {"mlsched.io/job-name": "\x1b[31m\n" + LARGE}},
    "odd-env": {"spec": {"env": {"A=B": "x", "": "y", "C\n": "z"}}},
    "odd-script": {"spec": {"script": "no shebang", "command": []}},
    "odd-selector": {"spec": {"nodeSelector": {"not a label": "!"}}},
    "odd-array": {"spec": {"array": "5-1"}},
}  # fmt: skip
"""MLJobs of which the API server may refuse some; none of those that it takes may do harm."""


def create(jobs: Jobs, path: str, name: str, odd: dict[str, Any], spec: dict[str, Any]) -> None:
    metadata = {"name": name, "labels": odd.get("labels", {}),
                "annotations": odd.get("annotations", {})}  # fmt: skip
    kind = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob"} if path == jobs.path else {}
    with contextlib.suppress(ApiError):
        jobs.plane.api("POST", path, {**kind, "metadata": metadata, "spec": spec})


def test_odd_objects_end_no_controller_and_keep_no_job_of_others_waiting(
    scheduled_kwok: Kwok, new_namespace: Callable[[ControlPlane], str], until: Until
) -> None:
    jobs = Jobs(scheduled_kwok.plane, new_namespace(scheduled_kwok.plane))
    for name, odd in PODS.items():
        amounts = {"limits": odd.get("amounts", {"cpu": "1"})}
        container = {"name": "c", "image": "none", "resources": amounts}
        spec = {"schedulerName": "mlsched", "containers": [container], **odd.get("spec", {})}
        create(jobs, jobs.pods_path, name, odd, spec)
    for name, odd in MLJOBS.items():
        create(jobs, jobs.path, name, odd, {**JOB, **odd.get("spec", {})})
    others = Jobs(scheduled_kwok.plane, new_namespace(scheduled_kwok.plane))
    others.submit("good", **JOB)
    until(lambda: others.state("good") == "RUNNING", 30)
    waiting = ("endless-gang", "negative-gang", "no-gang", "huge", "choosy")
    placed = ("tiny", "nothing", "tolerant", "of-nobody")
    until(lambda: all(jobs.pods()[name]["spec"].get("nodeName") for name in placed), 30)
    assert not any(jobs.pods()[name]["spec"].get("nodeName") for name in waiting)
    until(lambda: jobs.state("endless-grace") == "CANCELLED", 30)
    until(lambda: jobs.state("odd-elements") == jobs.state("odd-name") == "RUNNING", 30)
    [controller] = [p for p in scheduled_kwok.plane.processes.all if p.name == "mlsched"]
    assert controller.poll() is None
    assert not blunders(controller.log)
    for mine in (jobs, others):
        mine.plane.api("DELETE", mine.path)
        mine.plane.api("DELETE", mine.pods_path)
    until(lambda: not jobs.pods() and not others.pods(), 30)
