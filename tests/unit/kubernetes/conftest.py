"""Objects as an API server sends them, as short as a test can say them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mlsched.adapters.kubernetes.objects import NodeObject, Pod
from mlsched.adapters.kubernetes.pods import (
    ATTEMPT_LABEL,
    GROUP_LABEL,
    UID_LABEL,
    Owner,
)
from mlsched.model.jobs import GroupPlacement, Job, JobState
from mlsched.model.specs import JobSpec

OWNER = Owner("team", "train", "uid-1")


def own_pod(group: int = 0, attempt: int = 1, **changes: Any) -> Pod:
    """A pod of OWNER's attempt; ``status`` and ``spec`` are given as JSON."""
    metadata = {
        "name": f"train-{attempt}-{group}",
        "namespace": "team",
        "uid": f"pod-{attempt}-{group}",
        "resourceVersion": "1",
        "labels": {UID_LABEL: "uid-1", ATTEMPT_LABEL: str(attempt), GROUP_LABEL: str(group)},
        "ownerReferences": [{"kind": "MLJob", "name": "train", "uid": "uid-1"}],
    } | changes.pop("metadata", {})
    spec = {"nodeName": "node-a", "containers": [{"name": f"rank-{group}"}]}
    body = {"metadata": metadata, "spec": spec | changes.pop("spec", {}), **changes}
    return msgspec.json.decode(json.dumps(body), type=Pod)


def ended(code: int, rank: int = 0, **more: Any) -> dict[str, Any]:
    """The status of a pod whose container ended."""
    state = {
        "exitCode": code,
        "startedAt": "2026-01-01T00:00:01Z",
        "finishedAt": "2026-01-01T00:00:03Z",
    } | more
    phase = "Succeeded" if code == 0 else "Failed"
    statuses = [{"name": f"rank-{rank}", "state": {"terminated": state}}]
    return {"phase": phase, "containerStatuses": statuses}


def running(rank: int = 0) -> dict[str, Any]:
    """The status of a pod whose container runs."""
    state = {"running": {"startedAt": "2026-01-01T00:00:01Z"}}
    return {"phase": "Running", "containerStatuses": [{"name": f"rank-{rank}", "state": state}]}


def waiting(reason: str, rank: int = 0) -> dict[str, Any]:
    """The status of a pod whose container cannot start."""
    state = {"waiting": {"reason": reason, "message": "why"}}
    return {"phase": "Pending", "containerStatuses": [{"name": f"rank-{rank}", "state": state}]}


def placed_job(groups: int = 1, state: JobState = JobState.STARTING, **spec: Any) -> Job:
    """OWNER's job, placed on node-a, node-b, ..."""
    return Job(
        id="team/train",
        name="train",
        seq=1,
        spec=JobSpec(command=("python3", "train.py"), nodes=groups, image="i", **spec),
        submitted_at_ms=0,
        state=state,
        attempt=1,
        placements=tuple(GroupPlacement(f"node-{'abcdef'[g]}", 1000, 0, ()) for g in range(groups)),
        namespace="team",
    )


def node(name: str = "node-a", **changes: Any) -> NodeObject:
    """A ready node with 8 GPUs."""
    allocatable = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
    status = {
        "capacity": allocatable,
        "allocatable": allocatable,
        "conditions": [{"type": "Ready", "status": "True"}],
    } | changes.pop("status", {})
    metadata = {"name": name, "resourceVersion": "1"} | changes.pop("metadata", {})
    body = {"metadata": metadata, "status": status, **changes}
    return msgspec.json.decode(json.dumps(body), type=NodeObject)


@pytest.fixture
def make_pod() -> Callable[..., Pod]:
    return own_pod
