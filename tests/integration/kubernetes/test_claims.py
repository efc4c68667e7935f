"""Jobs on a real node whose GPUs a DRA driver publishes: mlsched chooses the devices."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.controllers import Jobs
from tests.controlplane.gpus import Gpus, look_at_gpus
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane
from tests.fake_nvml import build as fake_nvml

pytestmark = [
    pytest.mark.needs_nodes,
    pytest.mark.needs_gcc,
    pytest.mark.needs_plugins,
    pytest.mark.slow,
]

Until = Callable[..., Any]
GPUS = 3
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims"

START_S_MAX = 15.0
"""A pod that the kubelet has to look at a second time takes 86 s."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("fake-nvml"))


@pytest.fixture(scope="module")
def gpus(scheduled_nodes: Nodes, library: Path) -> Iterator[Gpus]:
    node = scheduled_nodes.add("dra-a")
    made = Gpus(node, GPUS, library)
    made.start_dra_plugin()
    made.start_agent()
    yield made
    made.stop_agent()
    node.crash()
    scheduled_nodes.plane.api("DELETE", "/api/v1/nodes/dra-a")


@pytest.fixture
def jobs(scheduled_nodes: Nodes, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    return Jobs(scheduled_nodes.plane, new_namespace(scheduled_nodes.plane))


def claims(jobs: Jobs) -> dict[str, dict[str, Any]]:
    items = jobs.plane.api("GET", CLAIMS.format(jobs.namespace))["items"]
    return {one["metadata"]["name"]: one.get("status", {}) for one in items}


def test_a_job_gets_the_devices_that_were_chosen_and_gives_them_back(
    gpus: Gpus, jobs: Jobs, until: Until
) -> None:
    look_at_gpus(jobs, "see", 2, stay_s=20)
    began = time.monotonic()
    until(lambda: jobs.state("see") == "RUNNING", 40)
    assert time.monotonic() - began < START_S_MAX
    seen = until(lambda: jobs.log("see-1-0").split())
    results = claims(jobs)["see-1-0-gpus"]["allocation"]["devices"]["results"]
    assert seen == [gpus.uuids[int(one["device"].removeprefix("gpu-"))] for one in results]
    assert len(seen) == 2
    holder = f"{jobs.namespace}/see-1-0"
    held = [f"gpu.mlsched.io/dra-a/{one['device']}" for one in results]
    until(lambda: gpus.published().get("holders") == dict.fromkeys(held, holder))
    look_at_gpus(jobs, "next", 2)
    jobs.cancel("see")
    until(lambda: "allocation" not in claims(jobs)["see-1-0-gpus"], 30)
    until(lambda: jobs.state("next") == "SUCCEEDED", 30)


def test_each_task_of_a_pod_has_devices_of_its_own(gpus: Gpus, jobs: Jobs, until: Until) -> None:
    look_at_gpus(jobs, "two", 2, tasksPerNode=2)
    until(lambda: jobs.state("two") == "SUCCEEDED", 60)
    seen = [jobs.log("two-1-0", f"rank-{rank}").split() for rank in (0, 1)]
    assert [len(one) for one in seen] == [1, 1]
    assert seen[0] != seen[1]


def test_devices_that_claims_of_others_hold_are_not_given(
    gpus: Gpus, jobs: Jobs, until: Until
) -> None:
    path = CLAIMS.format(jobs.namespace)
    wanted = {"name": "g", "exactly": {"deviceClassName": "gpu.mlsched.io"}}
    body = {"metadata": {"name": "other"}, "spec": {"devices": {"requests": [wanted]}}}
    jobs.plane.api("POST", path, body)
    taken = {"request": "g", "driver": "gpu.mlsched.io", "pool": "dra-a", "device": "gpu-0"}
    status = {"status": {"allocation": {"devices": {"results": [taken]}}}}
    jobs.plane.api("PATCH", f"{path}/other/status", status)
    look_at_gpus(jobs, "rest", 2)
    look_at_gpus(jobs, "all", 3)
    until(lambda: jobs.state("rest") == "SUCCEEDED", 60)
    assert gpus.uuids[0] not in jobs.log("rest-1-0")
    assert jobs.state("all") == "PENDING"
    jobs.plane.api("DELETE", f"{path}/other")
    until(lambda: jobs.state("all") == "SUCCEEDED", 60)


def test_a_broken_device_is_not_given(gpus: Gpus, jobs: Jobs, until: Until) -> None:
    gpus.say(*fake_nvml.machine(GPUS), "fail * 1 15")
    until(lambda: gpus.published().get("summary", {}).get("healthy") == GPUS - 1, 20)
    numbers = itertools.count()

    def given() -> list[str]:
        name = f"rest-{next(numbers)}"
        look_at_gpus(jobs, name, 2)
        until(lambda: jobs.state(name) == "SUCCEEDED", 60)
        return sorted(jobs.log(f"{name}-1-0").split())

    until(lambda: given() == [gpus.uuids[0], gpus.uuids[2]], 60)
    gpus.say(*fake_nvml.machine(GPUS))
