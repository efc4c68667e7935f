"""The controller, event by event: what is saved, started and stopped."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.commands import LaunchAttempt, SaveJob, Step, StopAttempt
from mlsched.model.events import (
    AttemptEnded,
    AttemptStarted,
    AttemptStuck,
    CancelRequested,
    Event,
    Instant,
    JobRestored,
    JobSubmitted,
    JobWithdrawn,
    NodeLost,
    NodeObserved,
    QueueObserved,
)
from mlsched.model.jobs import (
    ArrayMembership,
    EndCause,
    Job,
    JobState,
    Outcome,
    ResolvedDependency,
)
from mlsched.model.reasons import ReasonCode
from mlsched.runtime.controller import Controller
from mlsched.testing.builders import job, node

DONE = Outcome(EndCause.EXITED, 0)
BROKEN = Outcome(EndCause.EXITED, 1)


class World:
    """A controller with one node, a clock that only tests move, and the last saved records."""

    def __init__(self, gpus: int = 2) -> None:
        self.controller = Controller()
        self.now_ms = 0
        self.saved: dict[str, Job] = {}
        self.send(NodeObserved(node("a", gpus)))

    def send(self, *events: Event) -> Step:
        step = self.controller.step(events, Instant(self.now_ms, 1_000_000 + self.now_ms))
        for command in step.commands:
            if isinstance(command, SaveJob):
                self.saved[command.job.id] = command.job
        return step

    def end(self, name: str, outcome: Outcome = DONE) -> Step:
        return self.send(AttemptEnded(name, self.saved[name].attempt, outcome))

    def state(self, name: str) -> JobState:
        return self.saved[name].state


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


def after(name: str, seq: int, *others: str, condition: str = "ok") -> Job:
    needs = tuple(ResolvedDependency(other, other, condition) for other in others)  # type: ignore[arg-type]
    return replace(job(name, seq), after=needs)


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


def element(index: int, parallel: int = 0, size: int = 3) -> Job:
    made = job(f"arr[{index}]", index + 1)
    return replace(made, array=ArrayMembership("arr-id", "arr", index, size, parallel))


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
