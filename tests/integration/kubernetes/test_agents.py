"""The node agent on a real node, with a device plugin and a fake driver."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.controllers import Jobs, install
from tests.controlplane.gpus import GPU_NODES, Gpus, look_at_gpus, start_agent
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
PERIOD_S = 0.5

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("fake-nvml"))


@pytest.fixture
def gpus(scheduled_nodes: Nodes, library: Path) -> Iterator[Gpus]:
    """A node for each test: what its agent heard of an Xid counts for minutes."""
    node = scheduled_nodes.add(f"gpu-{next(_NUMBERS)}")
    made = Gpus(node, GPUS, library)
    made.start_device_plugin()
    made.start_agent(PERIOD_S)
    yield made
    made.stop_agent()
    node.crash()
    scheduled_nodes.plane.api("DELETE", f"/api/v1/nodes/{node.name}")


@pytest.fixture
def jobs(scheduled_nodes: Nodes, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    return Jobs(scheduled_nodes.plane, new_namespace(scheduled_nodes.plane))


def test_a_node_tells_its_gpus(gpus: Gpus, until: Until) -> None:
    until(lambda: gpus.published().get("summary", {}).get("healthy") == GPUS, 20)
    status = gpus.published()
    assert status["summary"] == {"gpus": 3, "healthy": 3, "driver": "580.105.08", "note": ""}
    assert [one["uuid"] for one in status["inventory"]["gpus"]] == gpus.uuids
    owner = gpus.node.plane.api("GET", f"{GPU_NODES}/{gpus.node.name}")["metadata"]
    assert owner["ownerReferences"][0]["kind"] == "Node"


def test_heat_is_no_reason_to_write(gpus: Gpus, until: Until) -> None:
    until(lambda: gpus.published().get("summary", {}).get("healthy") == GPUS, 20)
    before = gpus.published()
    lines = fake_nvml.machine(GPUS)
    hot = [line.replace("temp=29", "temp=61") for line in lines]
    assert hot != lines
    gpus.say(*hot)
    less = [line.replace("mem=81559", "mem=81558") for line in hot]
    time.sleep(4 * PERIOD_S)
    assert gpus.published() == before
    gpus.say(*less)
    until(lambda: gpus.published() != before, 10)
    gpus.say(*lines)


def test_a_job_gets_its_gpus_and_the_agent_names_its_pod(
    gpus: Gpus, jobs: Jobs, until: Until
) -> None:
    look_at_gpus(jobs, "see", 2, stay_s=30)
    until(lambda: jobs.state("see") == "RUNNING", 30)
    pod = f"{jobs.namespace}/see-1-0"
    until(lambda: list(gpus.published().get("holders", {}).values()) == [pod, pod], 10)
    seen = jobs.log("see-1-0").split()
    assert sorted(seen) == sorted(gpus.published()["holders"])
    jobs.cancel("see")
    until(lambda: jobs.state("see") == "CANCELLED", 20)
    until(lambda: not gpus.published().get("holders"), 10)


def test_a_lost_gpu_is_told_and_not_given(gpus: Gpus, jobs: Jobs, until: Until) -> None:
    gpus.say(*fake_nvml.machine(GPUS), "fail * 1 15")
    until(lambda: gpus.published().get("summary", {}).get("healthy") == GPUS - 1, 20)
    numbers = itertools.count()

    def find_waiting() -> str:
        """A job that waits for all GPUs while the others run one; none before that is heard."""
        number = next(numbers)
        look_at_gpus(jobs, f"all-{number}", GPUS)
        look_at_gpus(jobs, f"rest-{number}", GPUS - 1)
        until(lambda: jobs.state(f"rest-{number}") == "SUCCEEDED", 30)
        return f"all-{number}" if jobs.state(f"all-{number}") == "PENDING" else ""

    waiting = until(find_waiting, 60)
    gpus.say(*fake_nvml.machine(GPUS))
    until(lambda: jobs.state(waiting) == "SUCCEEDED", 30)


def test_an_xid_that_a_former_agent_heard_still_counts(gpus: Gpus, until: Until) -> None:
    until(lambda: gpus.published().get("summary", {}).get("healthy") == GPUS, 20)
    gpus.say(*fake_nvml.machine(GPUS), "event 2 8 79")
    until(lambda: gpus.published()["summary"]["healthy"] == GPUS - 1, 20)
    gpus.say(*fake_nvml.machine(GPUS))
    assert gpus.agent is not None
    assert gpus.agent.stop() == -9
    told = gpus.published()
    gpus.start_agent(PERIOD_S, heartbeat_s=1)
    until(lambda: gpus.published()["publishedAt"] > told["publishedAt"], 20)
    assert gpus.published()["summary"]["healthy"] == GPUS - 1
    assert gpus.published()["inventory"]["events"] == told["inventory"]["events"]


def test_an_agent_survives_the_absence_of_the_api_server_and_of_a_kubelet(
    library: Path, tmp_path: Path, until: Until
) -> None:
    state = fake_nvml.write_state(tmp_path / "state", fake_nvml.machine(1))
    with ControlPlane() as plane:
        install(plane)
        plane.api("POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
        agent = start_agent(plane, "n", tmp_path / "no-socket", library, state, period_s=PERIOD_S)

        def gpus() -> dict[str, Any]:
            path = f"{GPU_NODES}/n"
            found = plane.api("GET", path) if plane.exists(path) else {}
            told: dict[str, Any] = found.get("status", {}).get("summary", {})
            return told

        until(lambda: gpus().get("gpus") == 1)
        assert "does not tell who holds which GPU" in gpus()["note"]
        plane.stop_apiserver()
        fake_nvml.write_state(state, fake_nvml.machine(2))
        until(lambda: "no answer" in agent.tail(), 30)
        plane.start_apiserver()
        until(lambda: gpus().get("gpus") == 2, 60)
        plane.api("DELETE", f"{GPU_NODES}/n")
        fake_nvml.write_state(state, fake_nvml.machine(1))
        until(lambda: gpus().get("gpus") == 1, 20)
        assert agent.stop(10) == 0, agent.tail()
