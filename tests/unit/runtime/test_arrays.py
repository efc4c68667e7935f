"""Arrays: how many elements run at once, in which order, and how the whole ends."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.commands import LaunchAttempt
from mlsched.model.events import (
    CancelRequested,
    JobRestored,
    JobSubmitted,
    JobWithdrawn,
    NodeObserved,
)
from mlsched.model.jobs import (
    ArrayMembership,
    JobState,
)
from mlsched.model.reasons import ReasonCode
from mlsched.testing.builders import job, node
from tests.unit.runtime.conftest import BROKEN, DONE, World, after, element


def test_no_more_elements_run_at_once_than_the_array_allows() -> None:
    world = World()
    world.send(*(JobSubmitted(element(index, parallel=2)) for index in range(3)))
    assert world.controller.reasons["arr[2]"].code is ReasonCode.ARRAY_THROTTLED
    world.end("arr[0]")
    assert world.state("arr[2]") is JobState.STARTING


def test_elements_that_fit_no_node_any_more_say_so_also_where_their_array_is_bounded() -> None:
    world = World()
    elements = [replace(element(i, 1), spec=job("", 0, gpus=2).spec) for i in range(3)]
    world.send(*(JobSubmitted(one) for one in elements))
    assert world.controller.reasons["arr[2]"].code is ReasonCode.ARRAY_THROTTLED
    world.send(NodeObserved(node("a", gpus=1)))
    assert world.controller.reasons["arr[2]"].code is ReasonCode.NEVER_FITS


def test_a_job_after_an_array_waits_for_its_last_element_and_sees_the_worst_end() -> None:
    world = World()
    world.send(*(JobSubmitted(element(index)) for index in range(3)))
    world.send(JobSubmitted(after("good", 10, "arr-id")))
    world.send(JobSubmitted(after("any", 11, "arr-id", condition="any")))
    world.end("arr[0]")
    world.end("arr[1]", BROKEN)
    assert world.controller.jobs["good"].state is JobState.PENDING
    world.end("arr[2]")
    assert (world.state("good"), world.state("any")) == (JobState.CANCELLED, JobState.STARTING)


def test_elements_of_a_withdrawn_array_say_nothing_of_a_later_one_of_its_id() -> None:
    for first_end in (BROKEN, DONE):
        world = World()
        world.send(*(JobSubmitted(element(index, parallel=2)) for index in range(3)))
        world.end("arr[1]", BROKEN)
        gone = [JobWithdrawn(f"arr[{index}]") for index in range(3)]
        again = [JobSubmitted(replace(element(index), seq=10 + index)) for index in range(3)]
        world.send(*gone, *again, JobSubmitted(after("good", 20, "arr-id")))
        world.end("arr[1]")
        world.end("arr[0]", first_end)
        world.end("arr[0]")
        assert world.controller.jobs["good"].state is JobState.PENDING
        world.end("arr[2]", BROKEN)
        world.end("arr[2]")
        assert world.state("good") is JobState.STARTING


def test_an_array_that_is_withdrawn_has_ended_with_its_last_element() -> None:
    world = World()
    world.send(*(JobSubmitted(element(index, parallel=2)) for index in range(3)))
    world.send(JobSubmitted(after("good", 10, "arr-id")))
    world.send(JobSubmitted(after("any", 11, "arr-id", condition="any")))
    world.send(*(JobWithdrawn(f"arr[{index}]") for index in range(3)))
    world.send(JobSubmitted(element(0)), JobWithdrawn("arr[0]"))
    world.end("arr[0]")
    assert world.controller.is_open("arr-id")
    world.end("arr[1]", BROKEN)
    assert (world.state("good"), world.state("any")) == (JobState.CANCELLED, JobState.STARTING)
    assert not world.controller.is_open("arr-id")


def test_a_job_with_the_name_of_a_withdrawn_array_ends_by_itself() -> None:
    world = World()
    world.send(*(JobSubmitted(element(index, parallel=1)) for index in range(3)))
    world.send(*(JobWithdrawn(f"arr[{index}]") for index in range(3)))
    world.send(JobSubmitted(job("arr-id", 5)), JobSubmitted(after("good", 6, "arr-id")))
    world.end("arr-id")
    assert world.state("good") is JobState.STARTING


def test_elements_of_one_object_start_in_the_order_of_their_index_in_one_cycle() -> None:
    """On a cluster they share one place in the order of acceptance."""
    world = World(gpus=3)
    elements = [
        replace(job(f"a.{index}", 7, gpus=1), array=ArrayMembership("a", "a", index, 4))
        for index in range(4)
    ]
    step = world.send(*(JobRestored(one) for one in elements))
    launched = [one.job.id for one in step.commands if isinstance(one, LaunchAttempt)]
    assert launched == ["a.0", "a.1", "a.2"]
    world.send(CancelRequested("a.3"))
    assert [world.state(f"a.{index}") for index in range(4)] == [
        *[JobState.STARTING] * 3,
        JobState.CANCELLED,
    ]
