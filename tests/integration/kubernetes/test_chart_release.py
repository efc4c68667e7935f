"""A release of the chart on a real API server: what it lets in, whom it lets do what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlsched.adapters.kubernetes.announcements import LEASE_NAME, LEASES
from tests.controlplane import charts
from tests.controlplane.charts import find, render
from tests.controlplane.controllers import JOBS
from tests.controlplane.planes import ApiError, ControlPlane

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

LEVEL = "pod-security.kubernetes.io/enforce"
GPU_NODES = "/apis/mlsched.io/v1alpha1/gpunodes"
NODES = "/api/v1/nodes"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims"
VALUES = {
    "agent__namespace": "gpu",
    "networkPolicy__enabled": True,
    "controller__podDisruptionBudget": True,
}
Until = Callable[..., Any]


@pytest.fixture(scope="module")
def release(chart: Path) -> Iterator[ControlPlane]:
    """The chart in a restricted namespace, with its agents in a privileged one."""
    with ControlPlane(controller_manager=True) as plane:
        plane.create_namespace("mlsched", {LEVEL: "restricted"})
        plane.create_namespace("gpu", {LEVEL: "privileged"})
        plane.create_namespace("team", {LEVEL: "restricted"})
        charts.install(plane, chart, "mlsched", **VALUES)
        yield plane


def is_allowed(act: Callable[[], Any]) -> bool:
    """Whether the API server does not forbid it."""
    try:
        act()
    except ApiError as error:
        if error.code != 403:
            raise
        return False
    return True


def try_pod(plane: ControlPlane, namespace: str, workload: dict[str, Any]) -> None:
    """Create a pod of a workload, without storing it."""
    body = {**workload["spec"]["template"]}
    body["metadata"] = {**body["metadata"], "name": "tried"}
    plane.api("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", body)


def job(name: str) -> dict[str, Any]:
    """An MLJob."""
    spec = {"command": ["true"], "image": "none"}
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {"name": name},
        "spec": spec,
    }


def test_the_pods_keep_to_the_standards_of_their_namespaces(
    release: ControlPlane, chart: Path
) -> None:
    objects = render(chart, agent__namespace="gpu")
    agent = find(objects, "DaemonSet", "m-agent")
    try_pod(release, "mlsched", find(objects, "Deployment", "m-controller"))
    try_pod(release, "gpu", agent)
    agent["spec"]["template"]["spec"]["serviceAccountName"] = "default"
    with pytest.raises(ApiError, match=r"violates PodSecurity .*hostPath"):
        try_pod(release, "team", agent)
    modest = find(render(chart, agent__podResources=False), "DaemonSet", "m-agent")
    modest["spec"]["template"]["spec"]["serviceAccountName"] = "default"
    try_pod(release, "team", modest)


def agent_token(plane: ControlPlane, node: str) -> str:
    """The token that the agent's pod on a node gets."""
    pod = {
        "metadata": {"name": f"agent-{node}"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "m-agent",
            "containers": [{"name": "agent", "image": "none"}],
        },
    }
    made = plane.api("POST", "/api/v1/namespaces/gpu/pods", pod)["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": made["name"], "uid": made["uid"]}
    path = "/api/v1/namespaces/gpu/serviceaccounts/m-agent/token"
    body = {"spec": {"expirationSeconds": 600, "boundObjectRef": bound}}
    return str(plane.api("POST", path, body)["status"]["token"])


def test_an_agent_writes_of_its_own_node_only(release: ControlPlane, until: Until) -> None:
    for name in ("one", "two"):
        release.api("POST", NODES, {"metadata": {"name": name}})
    token = agent_token(release, "one")

    def create(name: str, token: str, query: str = "") -> bool:
        body = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "GPUNode",
            "metadata": {"name": name},
        }
        return is_allowed(lambda: release.api("POST", GPU_NODES + query, body, token=token))

    until(lambda: not create("two", token, "?dryRun=All"))
    assert create("one", token)
    assert not create("two", token)
    assert create("two", release.admin_token)
    for name, may in (("one", True), ("two", False)):
        found = release.api("GET", f"{GPU_NODES}/{name}", token=token)
        path = f"{GPU_NODES}/{name}/status"

        write = partial(release.api, "PUT", path, found, token=token)
        assert is_allowed(write) is may
    unbound = release.service_account_token("gpu", "m-agent")
    assert not create("three", unbound)
    assert not is_allowed(lambda: release.api("GET", "/api/v1/secrets", token=token))


def test_users_have_rights_by_the_roles_of_every_cluster(release: ControlPlane) -> None:
    path = JOBS.format("team")
    alice, bob = (release.token_of(name) for name in ("alice", "bob"))

    def may(method: str, where: str, token: str, body: Any = None) -> bool:
        return is_allowed(lambda: release.api(method, where, body, token=token))

    assert not may("GET", path, alice)
    assert may("GET", f"{LEASES}?fieldSelector=metadata.name%3D{LEASE_NAME}", alice)
    assert not may("GET", LEASES, alice)
    release.grant("alice", "edit", "team")
    release.grant("bob", "view", "team")
    assert may("POST", path, alice, job("first"))
    assert may("GET", path, bob)
    assert not may("POST", path, bob, job("second"))
    cancel = {"metadata": {"annotations": {"mlsched.io/cancel": ""}}}
    assert may("PATCH", f"{path}/first", alice, cancel)
    assert not may("PATCH", f"{path}/first", bob, cancel)
    assert not may("PATCH", f"{path}/first/status", alice, {"status": {}})
    assert not may("GET", NODES, alice)
    release.grant("alice", "m-why")
    assert may("GET", NODES, alice)
    assert may("GET", "/api/v1/pods", alice)
    assert not may("GET", "/api/v1/secrets", alice)


def test_the_controller_may_give_devices_to_claims(release: ControlPlane) -> None:
    token = release.service_account_token("mlsched", "m-controller")
    path = CLAIMS.format("team")
    requests = [{"name": "g", "exactly": {"deviceClassName": "gpu"}}]
    claim = {"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}}
    release.api("POST", path, claim, token=token)
    given = {"request": "g", "driver": "gpu.example.com", "pool": "p", "device": "gpu-0"}
    reserved = {"resource": "pods", "name": "p", "uid": "u"}
    status = {"allocation": {"devices": {"results": [given]}}, "reservedFor": [reserved]}
    found = release.api("PATCH", f"{path}/c/status", {"status": status}, token=token)
    assert found["status"]["reservedFor"] == [reserved]
    for method, where in (("DELETE", f"{path}/c"), ("GET", "/api/v1/secrets")):
        with pytest.raises(ApiError, match="forbidden"):
            release.api(method, where, token=token)


def test_an_upgrade_and_an_uninstall_keep_the_jobs(release: ControlPlane, chart: Path) -> None:
    release.api("POST", JOBS.format("team"), job("kept"))
    charts.install(release, chart, "mlsched", controller__replicas=2, agent__enabled=False)
    deployments = "/apis/apps/v1/namespaces/mlsched/deployments"
    assert release.api("GET", f"{deployments}/m-controller")["spec"]["replicas"] == 2
    charts.on_plane(release, "uninstall", charts.RELEASE, "-n", "mlsched")
    assert not release.api("GET", deployments)["items"]
    assert release.exists(f"{JOBS.format('team')}/kept")
    charts.install(release, chart, "mlsched", **VALUES)
    assert release.exists(f"{JOBS.format('team')}/kept")
