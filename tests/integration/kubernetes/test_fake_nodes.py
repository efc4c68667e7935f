"""KWOK plays pods as a kubelet would tell them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ControlPlane

pytestmark = pytest.mark.needs_controlplane

Until = Callable[..., Any]
Namespace = Callable[[ControlPlane], str]


class Pods:
    """Pods of one namespace, bound to one fake node."""

    def __init__(self, kwok: Kwok, namespace: str) -> None:
        self.plane = kwok.plane
        self.path = f"/api/v1/namespaces/{namespace}/pods"
        self.node = kwok.add_nodes(1)[0]

    def create(self, name: str, **annotations: str) -> None:
        """A placed pod with annotations of mlsched.io."""
        said = {f"mlsched.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
        container = {"name": "main", "image": "none"}
        spec = {"nodeName": self.node, "restartPolicy": "Never", "containers": [container]}
        self.plane.api("POST", self.path, {"metadata": self._meta(name, said), "spec": spec})

    def _meta(self, name: str, annotations: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "annotations": annotations, "finalizers": ["mlsched.io/seen"]}

    def status(self, name: str) -> dict[str, Any]:
        """The status of a pod."""
        found: dict[str, Any] = self.plane.api("GET", f"{self.path}/{name}")["status"]
        return found

    def exit_code(self, name: str) -> int | None:
        """Exit code of its container, when it has ended."""
        containers = self.status(name).get("containerStatuses", [])
        ended = [each["state"].get("terminated") for each in containers]
        return ended[0]["exitCode"] if ended and ended[0] else None

    def release(self, name: str) -> None:
        """Let a deleted pod go."""
        self.plane.api("PATCH", f"{self.path}/{name}", {"metadata": {"finalizers": None}})


@pytest.fixture
def pods(kwok_plane: Kwok, new_namespace: Namespace) -> Pods:
    return Pods(kwok_plane, new_namespace(kwok_plane.plane))


def test_nodes_are_ready_and_have_gpus(kwok_plane: Kwok) -> None:
    names = kwok_plane.add_nodes(50, gpus=4, labels={"mlsched.io/layer": "gpu"}, prefix="many-")
    assert len(names) == len(set(names)) == 50
    node = kwok_plane.plane.api("GET", f"/api/v1/nodes/{names[-1]}")
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert node["metadata"]["labels"]["mlsched.io/layer"] == "gpu"
    assert ("Ready", "True") in [(c["type"], c["status"]) for c in node["status"]["conditions"]]


def test_a_pod_runs_until_it_is_deleted_and_tells_how_it_ended(pods: Pods, until: Until) -> None:
    pods.create("stays")
    until(lambda: pods.status("stays")["phase"] == "Running")
    assert pods.status("stays")["podIP"].startswith("10.")
    pods.plane.api("DELETE", f"{pods.path}/stays")
    until(lambda: pods.exit_code("stays") is not None)
    assert pods.exit_code("stays") == 143
    pods.release("stays")
    until(lambda: not pods.plane.exists(f"{pods.path}/stays"))


@pytest.mark.parametrize(("code", "phase"), [("0", "Succeeded"), ("7", "Failed")])
def test_a_pod_ends_after_its_time_with_its_code(
    pods: Pods, until: Until, code: str, phase: str
) -> None:
    began = time.monotonic()
    pods.create("ends", run_for="1.2s", exit_code=code)
    until(lambda: pods.status("ends")["phase"] == "Running")
    until(lambda: pods.exit_code("ends") is not None)
    assert time.monotonic() - began > 1.0
    assert (pods.status("ends")["phase"], pods.exit_code("ends")) == (phase, int(code))
    pods.release("ends")


def test_an_ended_pod_keeps_its_code_when_it_is_deleted(pods: Pods, until: Until) -> None:
    pods.create("ended", run_for="10ms", exit_code="3")
    until(lambda: pods.exit_code("ended") == 3)
    pods.plane.api("DELETE", f"{pods.path}/ended")
    until(lambda: "deletionTimestamp" in pods.plane.api("GET", f"{pods.path}/ended")["metadata"])
    assert pods.exit_code("ended") == 3
    pods.release("ended")
    until(lambda: not pods.plane.exists(f"{pods.path}/ended"))


def test_a_start_takes_as_long_as_said(pods: Pods, until: Until) -> None:
    began = time.monotonic()
    pods.create("late", start_after="1.2s")
    assert pods.status("late")["phase"] == "Pending"
    until(lambda: pods.status("late")["phase"] == "Running")
    assert time.monotonic() - began > 1.0
    pods.release("late")
