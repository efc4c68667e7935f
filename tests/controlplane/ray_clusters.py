"""KubeRay's operator on a plane of the tests, Ray clusters for it, and work for those.

operator = start_operator(plane)                 # its CRDs, and the operator under the reaper
cluster = RayCluster(plane, "team", "ray")
cluster.create(workers=2, milli_cpus=500, annotations={...})
job = cluster.submit("python3 -c 'import ray; ...'")
cluster.job_status(job), cluster.job_log(job)
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any

import yaml

from tests.controlplane import binaries, ray_images
from tests.controlplane.planes import ApiError, ControlPlane
from tests.controlplane.processes import Process

CLUSTERS = "/apis/ray.io/v1/namespaces/{}/rayclusters"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STORE_BYTES = 80_000_000
"""Of each pod's shared objects: little more than the least that Ray takes."""


def missing() -> str | None:
    """Why there can be no Ray cluster here, with what to do; None when there can."""
    return binaries.missing("kuberay") or ray_images.missing()


def start_operator(plane: ControlPlane) -> Process:
    """Make KubeRay's CRDs and start its operator; returns when it is ready.

    Raises:
        StartError: It did not get ready.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 3 MB: half a minute in plain Python
    for path in sorted((binaries.need("kuberay").parent / "bases").glob("*.yaml")):
        plane.api("POST", CRDS, yaml.load(path.read_bytes(), Loader=loader))
    plane.processes.wait_until("KubeRay's CRDs are served", lambda: _are_served(plane))
    argv = [
        binaries.need("kuberay"),
        f"-kubeconfig={plane.admin_kubeconfig}",
        "-enable-leader-election=false",
        "-use-kubernetes-proxy",  # it runs outside the pods' network
        f"-metrics-addr=127.0.0.1:{next(plane.free_ports)}",
        f"-health-probe-bind-address=127.0.0.1:{next(plane.free_ports)}",
    ]
    operator = plane.processes.start("kuberay", argv)
    plane.processes.wait_until(
        "KubeRay's operator works", lambda: "Starting workers" in operator.tail(200), operator
    )
    return operator


def _are_served(plane: ControlPlane) -> bool:
    try:
        for plural in ("rayclusters", "rayjobs", "rayservices"):
            plane.api("GET", f"/apis/ray.io/v1/{plural}")
    except ApiError:
        return False
    return True


class RayCluster:
    """One RayCluster whose pods mlsched places."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str) -> None:
        self.plane = plane
        self.name = name
        self.clusters_path = CLUSTERS.format(namespace)
        self.pods_path = f"/api/v1/namespaces/{namespace}/pods"

    def create(
        self,
        workers: int,
        milli_cpus: int,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Create it, with one head; labels and annotations are those of each pod."""
        about = {"labels": dict(labels or {}), "annotations": dict(annotations or {})}
        start = {"num-cpus": "1", "object-store-memory": str(STORE_BYTES)}
        group = {
            "groupName": "workers",
            "replicas": workers,
            "minReplicas": workers,
            "maxReplicas": workers,
            "rayStartParams": start,
            "template": {"metadata": about, "spec": _pod_spec("ray-worker", milli_cpus)},
        }
        head = {
            "rayStartParams": start | {"dashboard-host": "0.0.0.0"},
            "template": {"metadata": about, "spec": _pod_spec("ray-head", milli_cpus)},
        }
        version = ray_images.version()
        body = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": self.name},
            "spec": {"rayVersion": version, "headGroupSpec": head, "workerGroupSpecs": [group]},
        }
        self.plane.api("POST", self.clusters_path, body)

    def delete(self) -> None:
        """Delete it; the garbage collector takes its pods along."""
        self.plane.api("DELETE", f"{self.clusters_path}/{self.name}")

    def state(self) -> str:
        """``ready`` once all pods run and are ready."""
        found = self.plane.api("GET", f"{self.clusters_path}/{self.name}")
        return str(found.get("status", {}).get("state", ""))

    def pods(self) -> dict[str, dict[str, Any]]:
        """Its pods, by name."""
        query = urllib.parse.urlencode({"labelSelector": f"ray.io/cluster={self.name}"})
        items = self.plane.api("GET", f"{self.pods_path}?{query}")["items"]
        return {one["metadata"]["name"]: one for one in items}

    def nodes(self) -> dict[str, str]:
        """The node of each pod that is bound, by the pod's name."""
        return {
            name: pod["spec"]["nodeName"]
            for name, pod in self.pods().items()
            if pod["spec"].get("nodeName")
        }

    def _dashboard(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the head's dashboard, through the API server."""
        kinds = {name: one["metadata"]["labels"]["ray.io/node-type"]
                 for name, one in self.pods().items()}  # fmt: skip
        head = next(name for name, kind in kinds.items() if kind == "head")
        return self.plane.api(method, f"{self.pods_path}/{head}:8265/proxy/api/{path}", body)

    def submit(self, entrypoint: str) -> str:
        """Run a shell command in the head's container as a job of Ray; the job's id."""
        answer = self._dashboard("POST", "jobs/", {"entrypoint": entrypoint})
        return str(answer["submission_id"])

    def job_status(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self._dashboard("GET", f"jobs/{job}")["status"])

    def job_log(self, job: str) -> str:
        """What the job has written."""
        return str(self._dashboard("GET", f"jobs/{job}/logs")["logs"])


def _pod_spec(container: str, milli_cpus: int) -> dict[str, Any]:
    amounts = {"memory": "1Gi"}
    one = {
        "name": container,
        "image": ray_images.RAY,
        "imagePullPolicy": "Never",
        "resources": {"requests": amounts | {"cpu": f"{milli_cpus}m"}, "limits": amounts},
    }
    return {"schedulerName": "mlsched", "containers": [one]}
