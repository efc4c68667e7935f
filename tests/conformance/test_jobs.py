"""What a store and an actuator owe the controller, on every world: the same tests, three times."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.worlds import KubernetesWorld, LocalWorld, SimWorld, World
from tests.controlplane import controllers
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.fixtures import kwok_plane, new_namespace
from tests.controlplane.planes import ControlPlane
from tests.integration.service.conftest import home

__all__ = ["home", "kwok_plane", "new_namespace"]

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
KUBERNETES = pytest.param("kubernetes", marks=[pytest.mark.needs_controlplane, pytest.mark.slow])


@pytest.fixture(scope="session")
def conformance_plane(kwok_plane: Kwok) -> Kwok:
    """A plane with CRDs and nodes, and no controller."""
    controllers.install(kwok_plane.plane)
    kwok_plane.add_nodes(2, gpus=0, labels={"mlsched.io/layer": "data"}, prefix="conform-")
    return kwok_plane


@pytest.fixture(params=["sim", "local", KUBERNETES])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each world in turn; what it started is gone afterwards."""
    if request.param == "sim":
        yield SimWorld()
    elif request.param == "local":
        yield LocalWorld(request.getfixturevalue("home"))
    else:
        kwok: Kwok = request.getfixturevalue("conformance_plane")
        make: Callable[[ControlPlane], str] = request.getfixturevalue("new_namespace")
        world = KubernetesWorld(kwok, make(kwok.plane))
        yield world
        world.controller.stop(10)


def ended(world: World, *names: str) -> None:
    world.until(lambda: all(world.told(name).state in ENDED for name in names))


@pytest.mark.parametrize("code", [0, 1, 42])
def test_a_job_ends_with_the_exit_code_of_its_program(world: World, code: int) -> None:
    world.submit("one", run_s=0.1, code=code)
    ended(world, "one")
    told = world.told("one")
    assert told.exit_code == code
    assert told.state == ("SUCCEEDED" if code == 0 else "FAILED")
    assert told.reason == ("Completed" if code == 0 else "ExitedWithError")
    assert world.starts("one") == {1: 1}


def test_a_job_is_seen_to_run_before_it_ends(world: World) -> None:
    world.submit("one", run_s=2)
    world.until(lambda: world.told("one").state == "RUNNING")
    ended(world, "one")


def test_a_failed_job_is_tried_again_with_a_new_attempt(world: World) -> None:
    world.submit("one", run_s=0.1, code=3, retries=1)
    ended(world, "one")
    told = world.told("one")
    assert (told.state, told.attempt, told.exit_code) == ("FAILED", 2, 3)
    assert world.starts("one") == {1: 1, 2: 1}


def test_a_running_job_that_is_cancelled_ends(world: World) -> None:
    world.submit("one", run_s=600)
    world.until(lambda: world.told("one").state == "RUNNING")
    world.cancel("one")
    ended(world, "one")
    assert world.told("one").reason == "CancelledByUser"


def test_a_job_that_waits_and_is_cancelled_never_starts(world: World) -> None:
    world.submit("first", run_s=600)
    world.submit("second", run_s=0.1, after=["first"])
    world.cancel("second")
    ended(world, "second")
    assert world.told("second").state == "CANCELLED"
    assert world.starts("second") == {}
    world.cancel("first")
    ended(world, "first")


def test_a_gang_starts_whole_and_once(world: World) -> None:
    world.submit("gang", run_s=0.2, nodes=2)
    ended(world, "gang")
    assert world.told("gang").state == "SUCCEEDED"
    assert world.starts("gang") == {1: 1}


def test_dependents_follow_the_end_that_they_wait_for(world: World) -> None:
    world.submit("fails", run_s=0.1, code=1)
    world.submit("never", run_s=0.1, after=["fails"])
    world.submit("anyway", run_s=0.1, after=["fails:any"])
    ended(world, "fails", "never", "anyway")
    assert world.told("never").reason == "DependencyFailed"
    assert world.told("anyway").state == "SUCCEEDED"


def test_a_killed_controller_loses_no_job_and_starts_none_twice(world: World) -> None:
    world.submit("runs", run_s=3)
    world.submit("waits", run_s=0.1, after=["runs"])
    world.until(lambda: world.told("runs").state == "RUNNING")
    world.restart()
    ended(world, "runs", "waits")
    assert world.told("runs").exit_code == 0
    assert world.starts("runs") == world.starts("waits") == {1: 1}


def test_an_end_while_no_controller_runs_is_found_by_the_next(world: World) -> None:
    world.submit("short", run_s=1, code=7)
    world.until(lambda: world.told("short").state == "RUNNING")
    world.restart()
    ended(world, "short")
    told = world.told("short")
    assert (told.state, told.exit_code, told.attempt) == ("FAILED", 7, 1)
