"""mlsched's controller on a plane of the tests, as a process of its own, and jobs for it.

install(plane)                                   # the CRDs
controller = start(plane)                        # under the plane's reaper
jobs = Jobs(plane, "team")
jobs.submit("train", command=["true"], image=images.PYTHON)
jobs.status("train")["state"]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsched.specs.crds import build_crds
from tests.controlplane.planes import ApiError, ControlPlane
from tests.controlplane.processes import Process

JOBS = "/apis/mlsched.io/v1alpha1/namespaces/{}/mljobs"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


def install(plane: ControlPlane) -> None:
    """Make the CRDs of mlsched and wait until they are served."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for crd in build_crds():
        plane.api("POST", path, crd)
    plane.processes.wait_until("the CRDs are served", lambda: _are_served(plane))


def _are_served(plane: ControlPlane) -> bool:
    try:
        for plural in ("mljobs", "mlqueues", "gpunodes"):
            plane.api("GET", f"/apis/mlsched.io/v1alpha1/{plural}")
    except ApiError:
        return False
    return True


def start(
    plane: ControlPlane, *words: str, kubeconfig: Path | None = None, name: str = "mlsched"
) -> Process:
    """Start a controller; admin's unless another kubeconfig is given."""
    argv = [sys.executable, "-m", "mlsched", "controller"]
    argv += ["--kubeconfig", str(kubeconfig or plane.admin_kubeconfig), *words]
    return plane.processes.start(name, argv)


def label(
    plane: ControlPlane,
    path: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> None:
    """Set labels and annotations of an object."""
    body = {"metadata": {"labels": labels or {}, "annotations": annotations or {}}}
    plane.api("PATCH", path, body)


class Jobs:
    """MLJobs of one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self.path = JOBS.format(namespace)
        self.pods_path = f"/api/v1/namespaces/{namespace}/pods"

    def submit(
        self, name: str, annotations: Mapping[str, str] | None = None, **spec: Any
    ) -> dict[str, Any]:
        """Create an MLJob."""
        body = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "metadata": {"name": name, "annotations": dict(annotations or {})},
            "spec": spec,
        }
        made: dict[str, Any] = self.plane.api("POST", self.path, body)
        return made

    def get(self, name: str) -> dict[str, Any]:
        """The object."""
        found: dict[str, Any] = self.plane.api("GET", f"{self.path}/{name}")
        return found

    def status(self, name: str) -> dict[str, Any]:
        """Its status; empty while it waits."""
        found: dict[str, Any] = self.get(name).get("status", {})
        return found

    def state(self, name: str) -> str:
        """Its state; PENDING while it has no status."""
        return str(self.status(name).get("state", "PENDING"))

    def states(self) -> dict[str, str]:
        """The states of all, by name."""
        items = self.plane.api("GET", self.path)["items"]
        return {
            one["metadata"]["name"]: one.get("status", {}).get("state", "PENDING") for one in items
        }

    def have_ended(self) -> bool:
        """Whether all have."""
        return all(state in ENDED for state in self.states().values())

    def cancel(self, name: str, grace: str = "") -> None:
        """Ask it to end, as ``mlsched cancel`` does."""
        self.annotate(name, "mlsched.io/cancel", grace)

    def annotate(self, name: str, key: str, value: str) -> None:
        """Set an annotation."""
        label(self.plane, f"{self.path}/{name}", annotations={key: value})

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods of the namespace, by name."""
        items = self.plane.api("GET", self.pods_path)["items"]
        return {one["metadata"]["name"]: one for one in items}

    def log(self, pod: str, container: str = "rank-0") -> str:
        """What a container has written."""
        found: str = self.plane.api("GET", f"{self.pods_path}/{pod}/log?container={container}")
        return found

    def events(self, name: str) -> list[str]:
        """Reasons of the Events about it, in the order in which they were told."""
        path = f"/api/v1/namespaces/{self.namespace}/events"
        items = self.plane.api("GET", f"{path}?fieldSelector=involvedObject.name={name}")["items"]
        items.sort(key=lambda one: int(one["metadata"]["resourceVersion"]))
        return [one["reason"] for one in items]
