"""Where jobs and the pods of others go on a real API server, with nodes that KWOK plays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlsched.adapters.kubernetes.gangs import (
    COSCHEDULING_COUNT,
    COSCHEDULING_GROUP,
    KUEUE_COUNT,
    KUEUE_GROUP,
    VOLCANO_COUNT,
    VOLCANO_GROUP,
)
from tests.controlplane import controllers
from tests.controlplane.binaries import kubernetes_version
from tests.controlplane.controllers import Jobs, label
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ControlPlane

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

Until = Callable[..., Any]
QUEUES = "/apis/mlsched.io/v1alpha1/namespaces/{}/mlqueues"
GROUPS = "/apis/scheduling.k8s.io/v1beta1/namespaces/{}/podgroups"
JOB = {"command": ["none"], "image": "none"}


@pytest.fixture
def jobs(scheduled_kwok: Kwok, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    return Jobs(scheduled_kwok.plane, new_namespace(scheduled_kwok.plane))


def foreign(jobs: Jobs, name: str, *, gpus: int = 0, **more: Any) -> None:
    """A pod of somebody else that mlsched is to place."""
    amounts = {"cpu": "1"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container = {
        "name": "c",
        "image": "none",
        "resources": {"requests": amounts, "limits": amounts},
    }
    metadata = {"name": name, **more.pop("metadata", {})}
    spec = {"schedulerName": "mlsched", "containers": [container], **more}
    jobs.plane.api("POST", jobs.pods_path, {"metadata": metadata, "spec": spec})


def node_of(jobs: Jobs, name: str) -> str:
    return str(jobs.pods()[name]["spec"].get("nodeName", ""))


def cordon(jobs: Jobs, node: str, spec: dict[str, Any], labels: dict[str, str]) -> None:
    """Keep jobs off a node, with labels by which those know it that come afterwards.

    Both are one change: nodes and jobs are watched apart, and a job may be seen first.
    """
    jobs.plane.api("PATCH", f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}, "spec": spec})


def finish(jobs: Jobs, until: Until, *names: str) -> None:
    """Let go of what the jobs hold, for the tests after this one."""
    for name in names:
        jobs.plane.api("DELETE", f"{jobs.path}/{name}")
    until(lambda: not jobs.pods(), 30)


def test_gpu_jobs_go_to_the_gpu_layer_and_others_to_the_data_layer(
    jobs: Jobs, until: Until
) -> None:
    jobs.submit("train", **JOB, gpusPerNode=2)
    jobs.submit("prepare", **JOB)
    until(lambda: jobs.state("train") == jobs.state("prepare") == "RUNNING", 30)
    assert node_of(jobs, "train-1-0").startswith("fake-")
    assert node_of(jobs, "prepare-1-0").startswith("data-")
    why = jobs.status("prepare")["attempts"][0]["placedBecause"]
    assert "jobs without GPUs go to layer data" in why
    finish(jobs, until, "train", "prepare")


def test_a_job_that_waits_has_no_pod_and_no_status_and_starts_when_there_is_room(
    jobs: Jobs, until: Until
) -> None:
    jobs.submit("whole", **JOB, nodes=8, gpusPerNode=8)
    until(lambda: jobs.state("whole") == "RUNNING", 30)
    jobs.submit("next", **JOB, gpusPerNode=1)
    jobs.submit("marker", **JOB)
    until(lambda: jobs.state("marker") == "RUNNING", 30)
    assert jobs.status("next") == {}
    assert not any(name.startswith("next") for name in jobs.pods())
    jobs.plane.api("DELETE", f"{jobs.path}/whole")
    until(lambda: jobs.state("next") == "RUNNING", 30)
    finish(jobs, until, "next", "marker")


def test_a_selector_and_a_cordon_are_obeyed(jobs: Jobs, until: Until) -> None:
    label(jobs.plane, "/api/v1/nodes/fake-3", {"disk": "fast"})
    jobs.submit("picky", **JOB, gpusPerNode=1, nodeSelector={"disk": "fast"})
    until(lambda: jobs.state("picky") == "RUNNING", 30)
    assert node_of(jobs, "picky-1-0") == "fake-3"
    cordon(jobs, "fake-3", {"unschedulable": True}, {"closed": "yes"})
    jobs.submit("late", **JOB, gpusPerNode=1, nodeSelector={"closed": "yes"})
    jobs.submit("marker", **JOB)
    until(lambda: jobs.state("marker") == "RUNNING", 30)
    assert jobs.state("late") == "PENDING"
    jobs.plane.api("PATCH", "/api/v1/nodes/fake-3", {"spec": {"unschedulable": None}})
    until(lambda: jobs.state("late") == "RUNNING", 30)
    finish(jobs, until, "picky", "late", "marker")


def test_a_taint_keeps_off_who_does_not_tolerate_it(jobs: Jobs, until: Until) -> None:
    taint = {"key": "dedicated", "value": "infra", "effect": "NoSchedule"}
    cordon(jobs, "fake-4", {"taints": [taint]}, {"pool": "tainted"})
    here = {"nodeSelector": {"pool": "tainted"}, "gpusPerNode": 1}
    jobs.submit("plain", **JOB, **here)
    tolerant = [{"key": "dedicated", "operator": "Exists"}]
    jobs.submit("tolerant", **JOB, **here, tolerations=tolerant)
    until(lambda: jobs.state("tolerant") == "RUNNING", 30)
    assert jobs.state("plain") == "PENDING"
    jobs.plane.api("PATCH", "/api/v1/nodes/fake-4", {"spec": {"taints": None}})
    until(lambda: jobs.state("plain") == "RUNNING", 30)
    finish(jobs, until, "plain", "tolerant")


def test_what_pods_of_others_hold_is_not_given_again(jobs: Jobs, until: Until) -> None:
    container = {"name": "c", "image": "none",
                 "resources": {"limits": {"nvidia.com/gpu": "6"}}}  # fmt: skip
    body = {
        "metadata": {"name": "theirs"},
        "spec": {"nodeName": "fake-5", "containers": [container]},
    }
    jobs.plane.api("POST", jobs.pods_path, body)
    until(lambda: jobs.pods()["theirs"]["status"]["phase"] == "Running", 30)
    label(jobs.plane, "/api/v1/nodes/fake-5", {"shared": "yes"})
    here = {"nodeSelector": {"shared": "yes"}}
    jobs.submit("three", **JOB, **here, gpusPerNode=3)
    jobs.submit("two", **JOB, **here, gpusPerNode=2, priority="high")
    until(lambda: jobs.state("two") == "RUNNING", 30)
    assert jobs.state("three") == "PENDING"
    jobs.plane.api("DELETE", f"{jobs.pods_path}/theirs")
    until(lambda: jobs.state("three") == "RUNNING", 30)
    finish(jobs, until, "two", "three")


def test_the_jobs_of_a_paused_queue_wait(jobs: Jobs, until: Until) -> None:
    path = QUEUES.format(jobs.namespace)
    queue = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLQueue",
             "metadata": {"name": "night"}, "spec": {"paused": True}}  # fmt: skip
    jobs.plane.api("POST", path, queue)
    jobs.submit("first", **JOB)
    until(lambda: jobs.state("first") == "RUNNING", 30)  # by now the queue has been seen, too
    jobs.submit("held", **JOB, queue="night")
    jobs.submit("marker", **JOB)
    until(lambda: jobs.state("marker") == "RUNNING", 30)
    assert jobs.state("held") == "PENDING"
    jobs.plane.api("PATCH", f"{path}/night", {"spec": {"paused": False}})
    until(lambda: jobs.state("held") == "RUNNING", 30)
    finish(jobs, until, "first", "held", "marker")


def test_a_job_whose_node_is_removed_is_lost_with_it(
    jobs: Jobs, scheduled_kwok: Kwok, until: Until
) -> None:
    (name,) = scheduled_kwok.add_nodes(1, gpus=8, labels={"short": "lived"}, prefix="gone-")
    jobs.submit("loser", **JOB, gpusPerNode=8, nodeSelector={"short": "lived"})
    until(lambda: jobs.state("loser") == "RUNNING", 30)
    assert node_of(jobs, "loser-1-0") == name
    jobs.plane.api("DELETE", f"/api/v1/nodes/{name}")
    until(lambda: jobs.state("loser") == "FAILED", 30)
    assert jobs.status("loser")["reason"] == "NodeLost"
    finish(jobs, until, "loser")


@pytest.mark.parametrize("form", ["core", "kueue", "volcano", "coscheduling"])
def test_a_foreign_gang_is_placed_whole_or_not_at_all(jobs: Jobs, until: Until, form: str) -> None:
    more = _member(jobs, form)
    foreign(jobs, "g-0", gpus=8, **more)
    foreign(jobs, "solo", gpus=1)
    until(lambda: node_of(jobs, "solo"), 30)
    assert node_of(jobs, "g-0") == ""
    foreign(jobs, "g-1", gpus=8, **more)
    until(lambda: node_of(jobs, "g-0") and node_of(jobs, "g-1"), 30)
    assert node_of(jobs, "g-0") != node_of(jobs, "g-1")
    for name in ("g-0", "g-1", "solo"):
        jobs.plane.api("DELETE", f"{jobs.pods_path}/{name}")
    until(lambda: not jobs.pods(), 30)


def _member(jobs: Jobs, form: str) -> dict[str, Any]:
    """What a member of a gang of two says of it."""
    if form == "core":
        if jobs.plane.kubernetes not in ("", kubernetes_version()):
            pytest.skip(f"Kubernetes {jobs.plane.kubernetes} has no PodGroup v1beta1")
        group = {"metadata": {"name": "g"}, "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}}
        jobs.plane.api("POST", GROUPS.format(jobs.namespace), group)
        return {"schedulingGroup": {"podGroupName": "g"}}
    name, count = {
        "kueue": (KUEUE_GROUP, KUEUE_COUNT),
        "volcano": (VOLCANO_GROUP, VOLCANO_COUNT),
        "coscheduling": (COSCHEDULING_GROUP, COSCHEDULING_COUNT),
    }[form]
    if form == "coscheduling":
        return {"metadata": {"labels": {name: "g", count: "2"}}}
    if form == "kueue":
        return {"metadata": {"labels": {name: "g"}, "annotations": {count: "2"}}}
    return {"metadata": {"annotations": {name: "g", count: "2"}}}


def test_a_foreign_pod_goes_where_its_node_affinity_says(jobs: Jobs, until: Until) -> None:
    label(jobs.plane, "/api/v1/nodes/fake-6", {"cores": "64", "zone": "b"})
    label(jobs.plane, "/api/v1/nodes/fake-7", {"cores": "8", "zone": "c"})
    foreign(jobs, "zones", **_required({"key": "zone", "operator": "In", "values": ["a", "b"]}))
    foreign(jobs, "large", **_required({"key": "cores", "operator": "Gt", "values": ["16"]}))
    elsewhere = {"key": "zone", "operator": "NotIn", "values": ["b"]}
    foreign(jobs, "other", **_required({"key": "zone", "operator": "Exists"}, elsewhere))
    name = {"key": "metadata.name", "operator": "In", "values": ["fake-7"]}
    foreign(jobs, "named", **_required_terms({"matchFields": [name]}))
    foreign(jobs, "either", **_required_terms(
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["nowhere"]}]},
        {"matchFields": [name]},
    ))  # fmt: skip
    foreign(jobs, "nowhere", **_required({"key": "cores", "operator": "Lt", "values": ["8"]}))
    foreign(jobs, "last")
    expected = {"zones": "fake-6", "large": "fake-6", "other": "fake-7", "named": "fake-7",
                "either": "fake-7", "nowhere": ""}  # fmt: skip
    until(lambda: all(node_of(jobs, one) for one in ("last", *expected) if one != "nowhere"), 30)
    assert {one: node_of(jobs, one) for one in expected} == expected
    label(jobs.plane, "/api/v1/nodes/fake-6", {"cores": "4"})
    until(lambda: node_of(jobs, "nowhere") == "fake-6", 30)
    for one in jobs.pods():
        jobs.plane.api("DELETE", f"{jobs.pods_path}/{one}")
    until(lambda: not jobs.pods(), 30)


def _required(*expressions: dict[str, Any]) -> dict[str, Any]:
    return _required_terms({"matchExpressions": list(expressions)})


def _required_terms(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    kind = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    return {"affinity": {"nodeAffinity": kind}}


def test_a_gang_too_large_for_what_is_free_leaves_it_to_others(jobs: Jobs, until: Until) -> None:
    labels = {COSCHEDULING_GROUP: "big", COSCHEDULING_COUNT: "9"}
    for index in range(9):
        foreign(jobs, f"big-{index}", gpus=8, metadata={"labels": labels})
    foreign(jobs, "small", gpus=1)
    until(lambda: node_of(jobs, "small"), 30)
    assert all(node_of(jobs, f"big-{index}") == "" for index in range(9))
    for name in jobs.pods():
        jobs.plane.api("DELETE", f"{jobs.pods_path}/{name}")
    until(lambda: not jobs.pods(), 30)


def test_a_pod_that_would_be_placed_wrongly_is_told_so(jobs: Jobs, until: Until) -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
              "labelSelector": {}}  # fmt: skip
    foreign(jobs, "spread", topologySpreadConstraints=[spread])
    until(lambda: jobs.events("spread") == ["FailedScheduling"], 30)
    jobs.plane.api("DELETE", f"{jobs.pods_path}/spread")


@pytest.mark.timeout(400)
def test_two_hundred_nodes_run_five_hundred_mixed_jobs_to_their_ends(until: Until) -> None:
    with ControlPlane(controller_manager=True, lifted=True) as plane:
        kwok = Kwok(plane)
        kwok.add_nodes(200, gpus=8)
        controllers.install(plane)
        controllers.start(plane)
        jobs = Jobs(plane, "default")
        path = jobs.path
        plane.create_all(path, [_mixed(index) for index in range(500)])
        others = f"{path}?fieldSelector=status.state%21%3DSUCCEEDED&limit=1"
        until(lambda: not plane.api("GET", others)["items"], 300)
        groups = sum(_mixed(index)["spec"]["nodes"] for index in range(500))
        assert len(jobs.pods()) == groups
        assert set(jobs.states().values()) == {"SUCCEEDED"}


def _mixed(index: int) -> dict[str, Any]:
    """Jobs of 1, 2, 4 and 8 GPUs; each tenth a gang of 2, 4 or 16 whole nodes."""
    nodes, gpus = 1, 1 << index % 4
    if index % 10 == 9:
        nodes, gpus = (2, 4, 16)[index // 10 % 3], 8
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {
            "name": f"job-{index}",
            "annotations": {"mlsched.io/run-for": f"{index % 7 / 4}s"},
        },
        "spec": {**JOB, "nodes": nodes, "gpusPerNode": gpus},
    }
