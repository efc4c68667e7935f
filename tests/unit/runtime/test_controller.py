"""The controller, event by event: what is saved, started and stopped."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.commands import LaunchAttempt, SaveJob, StopAttempt
from mlsched.model.events import (
    AttemptEnded,
    AttemptStarted,
    AttemptStuck,
    CancelRequested,
    Instant,
    JobRestored,
    JobSubmitted,
    NodeLost,
    NodeObserved,
    QueueObserved,
)
from mlsched.model.jobs import (
    EndCause,
    JobState,
    Outcome,
)
from mlsched.model.reasons import ReasonCode
from mlsched.runtime.controller import Controller
from mlsched.testing.builders import job, node
from tests.unit.runtime.conftest import BROKEN, DONE, World, after


def test_a_job_that_fits_is_recorded_before_it_is_launched() -> None:
    step = World().send(JobSubmitted(job("j", 1, gpus=1)))
    save, launch = step.commands
    assert isinstance(save, SaveJob)
    assert isinstance(launch, LaunchAttempt)
    assert save.job.state is JobState.STARTING
    assert launch.job.placements[0].devices == ("GPU-a-0",)


def test_a_job_that_waits_costs_no_second_write() -> None:
    world = World(gpus=1)
    world.send(JobSubmitted(job("first", 1, gpus=1)))
    world.send(JobSubmitted(job("second", 2, gpus=1)))
    step = world.send(NodeObserved(node("a", 1, cpus=32)))
    assert step.commands == ()
    assert world.controller.reasons["second"].code is ReasonCode.WAITING_FOR_CAPACITY


def test_the_life_of_a_job_that_succeeds() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1)))
    world.send(AttemptStarted("j", 1, 1_000_123))
    assert world.saved["j"].started_at_ms == 1_000_123
    world.end("j", replace(DONE, ended_at_ms=1_000_456))
    assert (world.state("j"), world.saved["j"].ended_at_ms) == (JobState.SUCCEEDED, 1_000_456)
    assert world.controller.jobs == {}


def test_an_end_frees_what_the_next_one_waits_for() -> None:
    world = World(gpus=1)
    world.send(JobSubmitted(job("first", 1, gpus=1)), JobSubmitted(job("second", 2, gpus=1)))
    world.end("first")
    assert world.state("second") is JobState.STARTING


def test_news_of_an_old_attempt_changes_nothing() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1, retries=3)))
    world.end("j", BROKEN)
    world.now_ms = 10_000
    world.send()
    assert world.saved["j"].attempt == 2
    assert world.send(AttemptEnded("j", 1, DONE), AttemptStarted("j", 1, 0)).commands == ()


def test_an_end_that_is_told_twice_counts_once() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1)))
    world.end("j", BROKEN)
    assert world.end("j", DONE).commands == ()
    assert world.state("j") is JobState.FAILED


def test_a_retry_waits_longer_each_time_and_asks_to_be_woken() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1, retries=2)))
    assert world.end("j", BROKEN).wake_at_ms == 1_000
    world.now_ms = 999
    assert world.send().commands == ()
    world.now_ms = 1_000
    world.send()
    assert world.end("j", BROKEN).wake_at_ms == 3_000
    world.now_ms = 3_000
    world.send()
    world.end("j", BROKEN)
    assert (world.state("j"), world.saved["j"].retries_used) == (JobState.FAILED, 2)


def test_a_launch_that_was_taken_back_uses_no_retry() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1)))
    world.end("j", Outcome(EndCause.REVOKED))
    assert (world.state("j"), world.saved["j"].retries_used) == (JobState.PENDING, 0)


def test_a_launch_that_is_taken_back_again_and_again_is_tried_less_and_less_often() -> None:
    """Such as in a namespace whose quota is used up: for days, perhaps."""
    world = World()
    world.send(JobSubmitted(job("j", 1, retries=1)))
    world.end("j", BROKEN)
    waits = []
    for _ in range(40):
        world.now_ms = world.send().wake_at_ms or 0
        world.send()
        wake_at_ms = world.end("j", Outcome(EndCause.REVOKED)).wake_at_ms or 0
        waits.append(wake_at_ms - world.now_ms)
    assert waits[:10] == [*(1_000 << times for times in range(9)), 300_000]
    assert set(waits[9:]) == {300_000}
    kept = [attempt.number for attempt in world.saved["j"].attempts]
    assert kept == [1, *range(22, 42)]


def test_cancelling_a_job_that_waits_ends_it_at_once() -> None:
    world = World(gpus=0)
    world.send(JobSubmitted(job("j", 1, gpus=1)), CancelRequested("j"))
    assert world.state("j") is JobState.CANCELLED


def test_cancelling_a_job_that_runs_stops_it_and_waits_for_its_end() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1)), AttemptStarted("j", 1, 5))
    step = world.send(CancelRequested("j", grace_s=3))
    assert StopAttempt("j", 1, 3) in step.commands
    assert world.saved["j"].cancel_requested
    world.end("j", Outcome(EndCause.STOPPED, 143, 15))
    assert world.state("j") is JobState.CANCELLED


def test_what_cannot_be_killed_keeps_what_it_holds_and_says_so() -> None:
    world = World(gpus=1)
    world.send(JobSubmitted(job("hung", 1, gpus=1)), JobSubmitted(job("next", 2, gpus=1)))
    world.send(AttemptStarted("hung", 1, 5), CancelRequested("hung"))
    world.send(AttemptStuck("hung", 1, tuple(range(100, 107))))
    world.send(CancelRequested("hung", grace_s=0))
    reason = world.saved["hung"].reason
    assert reason is not None
    assert reason.code is ReasonCode.CANNOT_BE_KILLED
    assert "processes 100, 101, 102, 103, 104, ... do not end" in reason.message
    assert world.controller.reasons["next"].code is ReasonCode.WAITING_FOR_CAPACITY
    world.end("hung", Outcome(EndCause.STOPPED, 137, 9))
    assert (world.state("hung"), world.state("next")) == (JobState.CANCELLED, JobState.STARTING)


def test_a_job_that_ended_well_before_the_signal_has_succeeded() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1)))
    world.send(CancelRequested("j"))
    world.end("j", DONE)
    assert world.state("j") is JobState.SUCCEEDED


def test_cancelling_the_job_that_blocks_the_queue_lets_the_next_go() -> None:
    world = World(gpus=2)
    for name, seq, gpus in (("running", 1, 1), ("large", 2, 2), ("small", 3, 1)):
        world.send(JobSubmitted(job(name, seq, gpus=gpus)))
    assert world.controller.reasons["small"].code is ReasonCode.LOWER_PRIORITY
    world.send(CancelRequested("large"))
    assert world.state("small") is JobState.STARTING


def test_jobs_of_a_paused_queue_wait_until_it_opens() -> None:
    world = World()
    world.send(QueueObserved("default", paused=True), JobSubmitted(job("j", 1)))
    assert world.controller.reasons["j"].code is ReasonCode.HELD
    world.send(QueueObserved("default", paused=False, namespace="team"))
    assert world.state("j") is JobState.PENDING
    world.send(QueueObserved("default", paused=False))
    assert world.state("j") is JobState.STARTING


def test_pausing_a_queue_is_told_to_those_that_wait_in_it_already() -> None:
    world = World(gpus=0)
    theirs = replace(job("theirs", 2, gpus=1), namespace="team")
    world.send(JobSubmitted(job("j", 1, gpus=1)), JobSubmitted(theirs))
    world.send(QueueObserved("default", paused=True, namespace="team"))
    codes = {name: reason.code for name, reason in world.controller.reasons.items()}
    assert codes == {"j": ReasonCode.NEVER_FITS, "theirs": ReasonCode.HELD}


def test_a_restored_cluster_holds_what_it_held_and_stops_what_was_to_be_stopped() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1, gpus=2)))
    world.send(CancelRequested("j", 7))
    world.send(JobSubmitted(job("waiting", 2, gpus=1)))
    again = Controller()
    held = JobRestored(world.saved["j"])
    step = again.step([held, JobRestored(job("waiting", 2, gpus=1))], Instant(0, 0))
    assert step.commands == (StopAttempt("j", 1, 7),)
    again.step([NodeObserved(node("a", 2))], Instant(1, 1))
    assert again.reasons["waiting"].code is ReasonCode.WAITING_FOR_CAPACITY


def test_records_of_a_crash_between_two_writes_hold_one_device_until_both_have_ended() -> None:
    """The end of the first was decided and not yet recorded when the second was."""
    world = World(gpus=1)
    world.send(JobSubmitted(job("first", 1, gpus=1)), JobSubmitted(job("second", 2, gpus=1)))
    old = world.saved["first"]
    world.end("first")
    restored = JobRestored(old), JobRestored(world.saved["second"])
    world.controller = Controller()
    world.send(NodeObserved(node("a", 1)), *restored, JobSubmitted(job("third", 3, gpus=1)))
    world.saved["first"] = old
    world.end("first")
    assert world.state("first") is JobState.SUCCEEDED
    assert world.controller.reasons["third"].code is ReasonCode.WAITING_FOR_CAPACITY
    world.end("second")
    assert world.state("third") is JobState.STARTING


def test_a_lost_node_and_a_dependency_that_ends_change_the_answer_of_those_that_wait() -> None:
    world = World(gpus=1)
    world.send(JobSubmitted(job("first", 1, gpus=1)), JobSubmitted(job("second", 2, gpus=1)))
    world.send(JobSubmitted(after("third", 3, "first")))
    world.send(NodeLost("a"))
    assert world.controller.reasons["second"].code is ReasonCode.NEVER_FITS
    assert world.controller.reasons["third"].code is ReasonCode.DEPENDENCY_PENDING
    world.end("first")
    assert world.controller.reasons["third"].code is ReasonCode.NEVER_FITS
    world.send(NodeObserved(node("a", gpus=1)))
    assert (world.state("second"), world.state("third")) == (JobState.STARTING, JobState.STARTING)


def test_nodes_that_come_in_any_order_are_not_sorted_again_for_each() -> None:
    compared = 0

    class Name(str):
        def __lt__(self, other: str) -> bool:
            nonlocal compared
            compared += 1
            return str.__lt__(self, other)

    names = [Name(f"n{(index * 37) % 200:03}") for index in range(200)]
    controller = Controller()
    controller.step([NodeObserved(node(name)) for name in names], Instant(0, 0))
    assert list(controller.ledger.nodes) == sorted(names)
    assert compared < 200 * 20


def test_a_job_that_waits_for_a_dependency_is_held_too_while_its_queue_is_paused() -> None:
    world = World()
    world.send(JobSubmitted(job("first", 1)), JobSubmitted(after("second", 2, "first")))
    for paused, code in ((True, ReasonCode.HELD), (False, ReasonCode.DEPENDENCY_PENDING)):
        world.send(QueueObserved("default", paused))
        assert world.controller.reasons["second"].code is code
    world.send(QueueObserved("default", paused=True))
    world.end("first")
    assert world.controller.reasons["second"].code is ReasonCode.HELD
    world.send(QueueObserved("default", paused=False))
    assert world.state("second") is JobState.STARTING


def test_each_launch_that_is_taken_back_waits_longer_until_something_runs() -> None:
    world = World()
    world.send(JobSubmitted(job("j", 1, gpus=1, retries=1)))
    waits = [_wait_after(world, Outcome(EndCause.REVOKED)) for _ in range(4)]
    assert waits == [1_000, 2_000, 4_000, 8_000]
    assert _wait_after(world, BROKEN) == 1_000
    assert _wait_after(world, Outcome(EndCause.REVOKED)) == 1_000


def _wait_after(world: World, outcome: Outcome) -> int:
    """How long the job waits for its next try, which is made."""
    wake_at_ms = world.end("j", outcome).wake_at_ms
    assert wake_at_ms is not None
    wait_ms = wake_at_ms - world.now_ms
    world.now_ms = wake_at_ms
    world.send()
    assert world.state("j") is JobState.STARTING
    return wait_ms
