"""What users are told of a cluster without mlsched, without a controller, and of its settings."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import charts, controllers
from tests.controlplane.controllers import Jobs
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ControlPlane
from tests.integration.kubernetes.test_commands import Commands

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

LEASE_S = 2
Until = Callable[..., Any]


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A plane of its own for each test: without mlsched, until a test installs it."""
    with ControlPlane(controller_manager=True) as started:
        started.create_namespace("team")
        started.create_namespace("mlsched")
        yield started


def commands(plane: ControlPlane, home: Path, user: str = "admin") -> Commands:
    home.mkdir(exist_ok=True)
    kubeconfig = plane.kubeconfig(user, context="prod", namespace="team")
    return Commands(home, kubeconfig, "team", "prod")


def checks(mlsched: Commands, code: int = 0) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in mlsched.json("doctor", code=code)}


def test_without_the_definitions_each_command_says_how_to_install(
    plane: ControlPlane, tmp_path: Path
) -> None:
    mlsched = commands(plane, tmp_path)
    for words in (("submit", "--image", "i:1", "--", "true"), ("ls",), ("why", "a"), ("gpus",)):
        mlsched.run(*words, code=1)
        assert "mlsched is not installed in the cluster of context prod" in mlsched.told, words
    assert checks(mlsched, code=1)["installed"]["state"] == "fail"


def test_who_schedules_and_how_is_told_to_all(
    plane: ControlPlane, tmp_path: Path, chart: Path, until: Until
) -> None:
    charts.install(plane, chart, "mlsched")
    plane.grant("alice", "edit", "team")
    mlsched = commands(plane, tmp_path / "alice", "alice")
    Kwok(plane).add_nodes(1, gpus=0, labels={"pool": "cpu"})

    mlsched.run("submit", "--image", "i:1", "--name", "first", "--", "true")
    assert "warning: no mlsched controller holds its lease" in mlsched.told
    assert checks(mlsched, code=1)["controller"]["state"] == "fail"
    running = mlsched.start("run", "--image", "i:1", "--name", "second", "--", "true")
    assert running.stderr is not None
    assert "warning: no mlsched controller" in running.stderr.readline()
    assert "second waits: no mlsched controller" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert (running.returncode, "cancel: mlsched cancel team/second" in told) == (130, True)

    settings = ("--image", "jobs:1", "--layer-rule", "pool=cpu:night", "--dra-driver", "d.example")
    lease = ("--namespace", "mlsched", "--lease-seconds", str(LEASE_S))
    account = plane.kubeconfig_for_service_account("mlsched", "m-controller")
    controller = controllers.start(plane, *lease, *settings, kubeconfig=account)
    until(lambda: "holds the lease" in controller.tail(), 30)
    found = checks(mlsched)["controller"]
    assert found["state"] == "ok"
    for word in (" in mlsched;", "image jobs:1", "layers by pool=cpu:night", "d.example"):
        assert word in found["found"]
    mlsched.run("submit", "--name", "third", "--layer", "night", "--", "true")
    assert mlsched.told == ""
    jobs = Jobs(plane, "team")
    until(lambda: jobs.state("third") == "RUNNING", 30)

    plane.grant("alice", "m-why")
    why = mlsched.json("why", "first")
    assert "layer" in why["reason"]["message"]
    preview = mlsched.json("submit", "--dry-run", "--layer", "night", "--", "true")
    assert (preview["starts_now"], preview["notes"]) == (True, [])

    controller.stop(0)
    until(lambda: checks_state(mlsched) == "fail", 30)
    mlsched.run("cancel", "first")
    assert "the last was heard" in mlsched.told


def checks_state(mlsched: Commands) -> str:
    running = mlsched.start("doctor", "-o", "json")
    found, _ = running.communicate(timeout=30)
    return next(one["state"] for one in json.loads(found) if one["name"] == "controller")
