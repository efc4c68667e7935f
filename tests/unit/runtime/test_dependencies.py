"""Jobs that wait for others, and ids that are used again."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.commands import StopAttempt
from mlsched.model.events import (
    AttemptEnded,
    CancelRequested,
    JobRestored,
    JobSubmitted,
    JobWithdrawn,
    QueueObserved,
)
from mlsched.model.jobs import (
    JobState,
)
from mlsched.model.reasons import ReasonCode
from mlsched.testing.builders import job
from tests.unit.runtime.conftest import BROKEN, DONE, World, after


def test_a_job_that_waits_and_is_withdrawn_is_forgotten_without_a_record() -> None:
    world = World(gpus=0)
    world.send(JobSubmitted(job("j", 1, gpus=1)), JobSubmitted(after("next", 2, "j")))
    step = world.send(JobWithdrawn("j"), JobWithdrawn("nobody"))
    assert [command.job.name for command in step.commands] == ["next"]  # type: ignore[union-attr]
    assert world.saved["next"].reason.code is ReasonCode.DEPENDENCY_FAILED  # type: ignore[union-attr]
    assert world.controller.jobs == {}
    assert world.controller.reasons == {}


def test_a_job_that_is_withdrawn_as_it_is_submitted_leaves_nothing() -> None:
    assert World().send(JobSubmitted(job("j", 1)), JobWithdrawn("j")).commands == ()


def test_a_job_that_runs_and_is_withdrawn_is_stopped_and_forgotten_at_its_end() -> None:
    world = World(gpus=1)
    world.send(JobSubmitted(job("j", 1, gpus=1, grace_seconds=7)))
    world.send(JobSubmitted(job("next", 2, gpus=1)))
    assert world.send(JobWithdrawn("j")).commands == (StopAttempt("j", 1, 7),)
    assert world.send(JobWithdrawn("j")).commands == ()
    assert world.controller.reasons["next"].code is ReasonCode.WAITING_FOR_CAPACITY
    world.end("j", BROKEN)
    assert list(world.controller.jobs) == ["next"]
    assert (world.state("j"), world.state("next")) == (JobState.STARTING, JobState.STARTING)


def test_a_job_of_the_same_id_waits_for_the_end_of_the_one_that_was_withdrawn() -> None:
    world = World(gpus=2)
    world.send(JobSubmitted(job("j", 1, gpus=1)))
    world.send(JobWithdrawn("j"), JobSubmitted(job("j", 2, gpus=2)))
    assert world.controller.jobs["j"].seq == 1
    world.end("j", BROKEN)
    assert (world.saved["j"].seq, world.state("j")) == (2, JobState.STARTING)
    world.end("j")
    assert world.state("j") is JobState.SUCCEEDED


def test_a_successor_can_be_cancelled_and_withdrawn_before_its_turn() -> None:
    for event, saved in ((CancelRequested("j"), 2), (JobWithdrawn("j"), 1)):
        world = World()
        world.send(JobSubmitted(job("j", 1)))
        world.send(JobWithdrawn("j"), JobSubmitted(job("j", 2)), event)
        world.end("j", BROKEN)
        assert world.controller.jobs == {}
        assert world.saved["j"].seq == saved
    assert world.send(JobSubmitted(job("j", 3))).commands


def test_a_dependent_starts_when_what_it_waits_for_ended_well() -> None:
    world = World()
    world.send(JobSubmitted(job("first", 1)), JobSubmitted(after("second", 2, "first")))
    assert "second" not in world.saved or world.state("second") is JobState.PENDING
    world.end("first")
    assert world.state("second") is JobState.STARTING


def test_what_can_never_run_any_more_ends_with_the_reason_and_so_does_what_waits_for_it() -> None:
    world = World()
    world.send(
        JobSubmitted(job("first", 1)),
        JobSubmitted(after("second", 2, "first")),
        JobSubmitted(after("third", 3, "second")),
        JobSubmitted(after("cleanup", 4, "first", condition="fail")),
    )
    world.end("first", BROKEN)
    assert world.saved["second"].reason.code is ReasonCode.DEPENDENCY_FAILED  # type: ignore[union-attr]
    assert world.state("third") is JobState.CANCELLED
    assert world.state("cleanup") is JobState.STARTING


def test_a_dependency_that_ended_before_is_known() -> None:
    world = World()
    world.send(JobSubmitted(after("j", 2, "old"), {"old": JobState.SUCCEEDED}))
    world.send(JobSubmitted(after("k", 3, "bad"), {"bad": JobState.FAILED}))
    assert (world.state("j"), world.state("k")) == (JobState.STARTING, JobState.CANCELLED)


def test_how_a_job_ended_says_nothing_of_a_later_one_of_its_id() -> None:
    world = World()
    world.send(JobSubmitted(job("d", 1)), JobSubmitted(after("lost", 2, "d")))
    world.end("d", BROKEN)
    world.send(JobSubmitted(job("d", 3)), JobSubmitted(after("j", 4, "d")))
    assert world.controller.reasons["j"].code is ReasonCode.DEPENDENCY_PENDING
    world.end("d")
    assert (world.state("lost"), world.state("j")) == (JobState.CANCELLED, JobState.STARTING)


def test_a_job_that_waits_for_a_later_one_of_an_id_is_woken_by_its_end() -> None:
    world = World()
    world.send(JobSubmitted(job("d", 1)), JobSubmitted(after("j", 2, "d", condition="any")))
    world.send(AttemptEnded("d", 1, BROKEN), JobSubmitted(job("d", 3)))
    assert world.controller.reasons["j"].code is ReasonCode.DEPENDENCY_PENDING
    world.end("d")
    assert world.state("j") is JobState.STARTING


def test_jobs_go_on_when_the_one_that_they_must_not_delay_waits_for_another_again() -> None:
    world = World(gpus=2)
    large = replace(after("large", 3, "d", condition="any"), spec=job("", 0, gpus=2).spec)
    world.send(JobSubmitted(job("d", 1)), JobSubmitted(job("running", 2, gpus=1)))
    world.send(JobSubmitted(large))
    world.end("d", BROKEN)
    world.send(JobSubmitted(job("small", 4, gpus=1)))
    assert world.controller.reasons["small"].code is ReasonCode.LOWER_PRIORITY
    world.send(JobSubmitted(job("d", 5)))
    assert world.controller.reasons["large"].code is ReasonCode.DEPENDENCY_PENDING
    assert world.state("small") is JobState.STARTING


def test_a_successor_hears_of_what_ends_before_its_turn() -> None:
    for outcome, state in ((DONE, JobState.STARTING), (BROKEN, JobState.CANCELLED)):
        world = World()
        world.send(JobSubmitted(job("d", 1)), JobSubmitted(job("j", 2)))
        world.send(JobWithdrawn("j"), JobSubmitted(after("j", 3, "d")))
        world.end("d", outcome)
        world.end("j", BROKEN)
        assert (world.saved["j"].seq, world.state("j")) == (3, state)


def test_the_end_of_a_withdrawn_job_says_nothing_of_its_successor() -> None:
    world = World()
    world.send(JobSubmitted(job("d", 1)))
    world.send(JobWithdrawn("d"), JobSubmitted(job("d", 2)), JobSubmitted(after("j", 3, "d")))
    world.end("d", BROKEN)
    assert world.controller.reasons["j"].code is ReasonCode.DEPENDENCY_PENDING
    world.end("d")
    assert world.state("j") is JobState.STARTING


def test_an_end_is_kept_for_as_long_as_somebody_waits_for_it() -> None:
    world = World(gpus=1)
    world.send(JobSubmitted(job("d", 1)), JobSubmitted(job("busy", 2, gpus=1)))
    waiting = replace(after("waiting", 3, "d"), spec=job("", 0, gpus=1).spec)
    world.send(JobSubmitted(waiting), JobSubmitted(after("quick", 4, "d")))
    world.end("d")
    world.end("quick")
    world.send(QueueObserved("default", paused=True), QueueObserved("default", paused=False))
    assert world.controller.reasons["waiting"].code is ReasonCode.WAITING_FOR_CAPACITY
    world.end("busy")
    world.send(JobSubmitted(after("late", 5, "old"), {"old": JobState.SUCCEEDED}))
    world.send(JobRestored(job("other", 6), {"old": JobState.SUCCEEDED}))
    known = world.controller._dependencies
    assert (known._states, known._dependents) == ({}, {})


def test_a_job_that_was_placed_before_waits_for_no_other_again() -> None:
    """What it had waited for may have been deleted, or stand for another job."""
    again = replace(after("j", 1, "gone", "bad"), attempt=1)
    world = World()
    world.send(JobRestored(again, {"bad": JobState.FAILED}))
    assert world.state("j") is JobState.STARTING
