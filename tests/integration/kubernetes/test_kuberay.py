"""Pods of KubeRay's operator, placed by mlsched: Ray clusters as gangs on real nodes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlsched.adapters.kubernetes.gangs import KUEUE_COUNT, KUEUE_GROUP
from mlsched.adapters.kubernetes.objects import parse_milli
from tests.controlplane import images, ray_clusters, ray_images
from tests.controlplane.controllers import Jobs
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane
from tests.controlplane.ray_clusters import RayCluster

pytestmark = [
    pytest.mark.needs_nodes,
    pytest.mark.needs_ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

Until = Callable[..., Any]
NODES = ("node-a", "node-b")
READY_S_MAX = 300
GANG = {
    "labels": {KUEUE_GROUP: "ray"},
    "annotations": {KUEUE_COUNT: "3"},
}
WHERE = """
import ray, socket
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address="auto", log_to_driver=False)
name = ray.remote(lambda: socket.gethostname())
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
here = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
names = ray.get([name.options(scheduling_strategy=strategy).remote() for strategy in here])
print("ran on", *sorted(names))
"""


@pytest.fixture(scope="module")
def ray_nodes(scheduled_nodes: Nodes) -> Iterator[Nodes]:
    """The real nodes with Ray's image, and KubeRay's operator."""
    for name in NODES:
        scheduled_nodes[name].add_image(ray_images.archive())
    operator = ray_clusters.start_operator(scheduled_nodes.plane)
    yield scheduled_nodes
    operator.stop(5)


@pytest.fixture
def jobs(ray_nodes: Nodes, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    return Jobs(ray_nodes.plane, new_namespace(ray_nodes.plane))


def half_of_a_node(plane: ControlPlane) -> int:
    """Thousandths of a CPU of which two fit on each node, and three do not."""
    found = (plane.api("GET", f"/api/v1/nodes/{name}")["status"]["allocatable"] for name in NODES)
    return min(parse_milli(amounts["cpu"]) for amounts in found) * 45 // 100


def hold(jobs: Jobs, name: str, milli_cpus: int) -> None:
    """A pod of somebody else that asks mlsched for a place, and keeps it."""
    container = {
        "name": "c",
        "image": images.PYTHON,
        "imagePullPolicy": "Never",
        "command": ["sleep", "600"],
        "resources": {"requests": {"cpu": f"{milli_cpus}m"}},
    }
    spec = {
        "schedulerName": "mlsched",
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    jobs.plane.api("POST", jobs.pods_path, {"metadata": {"name": name}, "spec": spec})


def node_of(jobs: Jobs, name: str) -> str:
    return str(jobs.pods()[name]["spec"].get("nodeName", ""))


def test_a_ray_cluster_waits_for_room_for_all_its_pods_then_works(jobs: Jobs, until: Until) -> None:
    half = half_of_a_node(jobs.plane)
    cluster = RayCluster(jobs.plane, jobs.namespace, "ray")
    hold(jobs, "first", half)
    hold(jobs, "second", half)
    until(lambda: node_of(jobs, "first") and node_of(jobs, "second"), 60)

    cluster.create(workers=2, milli_cpus=half, **GANG)
    until(lambda: len(cluster.pods()) == 3, 30)
    hold(jobs, "third", half)
    until(lambda: node_of(jobs, "third"), 30)
    hold(jobs, "fourth", half)
    until(lambda: node_of(jobs, "fourth"), 30)
    assert cluster.nodes() == {}, "there was room for two, and two pods were let past"

    for name in ("first", "second", "third"):
        jobs.plane.api("DELETE", f"{jobs.pods_path}/{name}")
    until(lambda: len(cluster.nodes()) == 3, 30)
    assert set(cluster.nodes().values()) == set(NODES)
    until(lambda: cluster.state() == "ready", READY_S_MAX)

    job = cluster.submit(f"python3 -c {shlex.quote(WHERE)}")
    until(lambda: cluster.job_status(job) in ("SUCCEEDED", "FAILED"), READY_S_MAX)
    assert " ".join(["ran on", *sorted(cluster.pods())]) in cluster.job_log(job)

    jobs.submit("next", command=["true"], image=images.PYTHON, cpusPerTask=f"{half}m", nodes=2)
    assert jobs.state("next") == "PENDING"
    cluster.delete()
    until(lambda: jobs.state("next") == "SUCCEEDED", 60)
    assert cluster.pods() == {}
