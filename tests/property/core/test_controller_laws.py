"""Laws of the controller over any sequence of events that the world may send."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from mlsched.core.feasibility import never_fits
from mlsched.core.invariants import check_all, within_capacity
from mlsched.core.ledger import Ledger
from mlsched.core.lifecycle import TRANSITIONS
from mlsched.model.commands import LaunchAttempt, SaveJob, StopAttempt
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
    NodeObserved,
    QueueObserved,
)
from mlsched.model.jobs import ArrayMembership, EndCause, Job, JobState, Outcome, needs_of
from mlsched.model.resources import GroupNeed
from mlsched.runtime.controller import Controller
from mlsched.specs.records import find_contradiction
from mlsched.testing.builders import job, node

CAUSES = st.sampled_from(
    [
        Outcome(EndCause.EXITED, 0),
        Outcome(EndCause.EXITED, 1),
        Outcome(EndCause.SIGNALLED, 139, 11),
        Outcome(EndCause.REVOKED),
        Outcome(EndCause.SUPERVISOR_LOST),
        Outcome(EndCause.STOPPED, 143, 15),
    ]
)


class ControllerMachine(RuleBasedStateMachine):
    """Submits, starts, ends, cancels, waits and crashes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller()
        self.now_ms = 0
        self.store: dict[str, Job] = {}
        self.alive: dict[str, int] = {}
        self.launched: set[tuple[str, int]] = set()
        self.withdrawn: set[str] = set()
        self.paused = False
        self.nodes = [node("a", 4, cpus=8), node("b", 2, cpus=4)]

    def send(self, *events: Event) -> None:
        step = self.controller.step(events, Instant(self.now_ms, self.now_ms))
        saved: set[str] = set()
        for command in step.commands:
            if isinstance(command, SaveJob):
                assert command.job.id not in self.withdrawn, "written though it is gone"
                self.check_history(self.store.get(command.job.id), command.job)
                self.store[command.job.id] = command.job
                saved.add(command.job.id)
            elif isinstance(command, LaunchAttempt):
                key = (command.job.id, command.job.attempt)
                assert key not in self.launched, "an attempt was launched twice"
                assert command.job.id in saved, "launched before it was recorded"
                self.launched.add(key)
                self.alive[command.job.id] = command.job.attempt
            elif isinstance(command, StopAttempt):
                withdrawn = command.job_id in self.withdrawn
                assert withdrawn or self.store[command.job_id].cancel_requested

    def check_history(self, before: Job | None, after: Job) -> None:
        if before is None:
            return
        assert after.attempt in (before.attempt, before.attempt + 1)
        if before.state is not after.state:
            assert not before.state.is_ended
            steps = {to for (state, _), to in TRANSITIONS.items() if state is before.state}
            two = {to for (state, _), to in TRANSITIONS.items() if state in steps}
            assert after.state in steps | two

    @initialize()
    def observe(self) -> None:
        self.send(*(NodeObserved(one) for one in self.nodes))

    @rule(
        gpus=st.integers(0, 5),
        cpus=st.sampled_from([1, 2, 9]),
        nodes=st.integers(1, 3),
        priority=st.sampled_from([-100, 0, 100]),
        retries=st.integers(0, 1),
        requeue=st.booleans(),
    )
    def submit(
        self, gpus: int, cpus: int, nodes: int, priority: int, retries: int, requeue: bool
    ) -> None:
        seq = len(self.store) + 1
        made = job(
            f"j{seq}", seq, gpus, cpus, nodes=nodes, priority=priority, retries=retries,
            requeue=requeue,
        )  # fmt: skip
        self.store[made.id] = made
        self.send(JobSubmitted(made))

    @rule(gpus=st.integers(0, 4), workers=st.integers(1, 3), cpus=st.sampled_from([1, 3]))
    def submit_gang(self, gpus: int, workers: int, cpus: int) -> None:
        """One head without GPUs, and workers."""
        seq = len(self.store) + 1
        needs = (GroupNeed(cpus * 1000, 0, 0), *[GroupNeed(1000, 0, gpus)] * workers)
        made = replace(job(f"j{seq}", seq), needs=needs)
        self.store[made.id] = made
        self.send(JobSubmitted(made))

    @rule(gpus=st.integers(0, 2), size=st.integers(2, 4), at_once=st.integers(0, 2))
    def submit_array(self, gpus: int, size: int, at_once: int) -> None:
        """Elements share one place in the order of acceptance, and follow their index."""
        seq = len(self.store) + 1
        for index in range(size):
            made = replace(
                job(f"j{seq}.{index}", seq, gpus),
                array=ArrayMembership(f"j{seq}", f"j{seq}", index, size, at_once),
            )
            self.store[made.id] = made
        self.send(*(JobSubmitted(self.store[f"j{seq}.{index}"]) for index in range(size)))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.store:
            job_id = data.draw(st.sampled_from(sorted(self.store)))
            self.withdrawn.add(job_id)
            self.send(JobWithdrawn(job_id))
            assert job_id not in self.controller.jobs or job_id in self.alive

    @rule()
    def pause_or_resume(self) -> None:
        self.paused = not self.paused
        self.send(QueueObserved("default", self.paused))

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        if self.alive:
            job_id = data.draw(st.sampled_from(sorted(self.alive)))
            self.send(AttemptStarted(job_id, self.alive[job_id], self.now_ms))

    @rule(data=st.data())
    def cannot_be_killed(self, data: st.DataObject) -> None:
        if self.launched:
            job_id, attempt = data.draw(st.sampled_from(sorted(self.launched)))
            before = self.store[job_id]
            self.send(AttemptStuck(job_id, attempt, (7,)))
            assert replace(self.store[job_id], reason=before.reason) == before

    @rule(data=st.data(), outcome=CAUSES)
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        if self.alive:
            job_id = data.draw(st.sampled_from(sorted(self.alive)))
            runs = self.store[job_id].state is JobState.RUNNING
            if runs and outcome.cause is EndCause.REVOKED:
                return
            self.send(AttemptEnded(job_id, self.alive.pop(job_id), outcome))

    @rule(data=st.data(), outcome=CAUSES)
    def old_news(self, data: st.DataObject, outcome: Outcome) -> None:
        if self.launched:
            job_id, attempt = data.draw(st.sampled_from(sorted(self.launched)))
            if self.alive.get(job_id) != attempt:
                before = self.store[job_id]
                self.send(AttemptEnded(job_id, attempt, outcome))
                assert self.store[job_id] == before

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.store:
            self.send(CancelRequested(data.draw(st.sampled_from(sorted(self.store)))))

    @rule(passed_ms=st.sampled_from([1, 999, 1_000, 60_000]))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.send()

    @rule(unhealthy=st.booleans())
    def gpu_falls_ill_or_recovers(self, unhealthy: bool) -> None:
        first = self.nodes[0]
        devices = tuple(
            replace(d, healthy=not unhealthy if i == 0 else True)
            for i, d in enumerate(first.devices)
        )
        self.nodes[0] = replace(first, devices=devices)
        self.send(NodeObserved(self.nodes[0]))

    @rule()
    def crash(self) -> None:
        self.controller = Controller()
        open_jobs = [one for one in self.store.values() if not one.state.is_ended]
        open_jobs = [one for one in open_jobs if one.id not in self.withdrawn]
        for job_id in self.withdrawn:
            self.alive.pop(job_id, None)
        self.now_ms = 0
        self.send(*(JobRestored(one) for one in open_jobs))
        self.send(QueueObserved("default", self.paused))
        self.observe()

    @invariant()
    def no_record_contradicts_itself(self) -> None:
        jobs = [job for job in self.controller.jobs.values() if not job.needs]
        assert not any(map(find_contradiction, jobs))

    @invariant()
    def laws_hold(self) -> None:
        controller = self.controller
        check_all(controller.jobs.values(), controller.ledger, controller.reasons)
        assert within_capacity(controller.ledger) == []

    @invariant()
    def a_job_that_fits_an_empty_cluster_is_never_told_that_it_does_not(self) -> None:
        for job_id, reason in self.controller.reasons.items():
            one = self.controller.jobs[job_id]
            fits = never_fits(needs_of(one), Ledger(self.nodes)) is None
            assert not (fits and reason.code == "NeverFits")

    def teardown(self) -> None:
        """With no more faults everything ends that can."""
        self.send(QueueObserved("default", paused=False))
        for _ in range(400):
            self.now_ms += 400_000
            for job_id, attempt in list(self.alive.items()):
                del self.alive[job_id]
                self.send(AttemptEnded(job_id, attempt, Outcome(EndCause.EXITED, 0)))
            self.send()
            if not self.alive:
                break
        states = {j.state for j in self.controller.jobs.values()}
        assert states <= {JobState.PENDING}
        codes = {str(self.controller.reasons[i].code) for i in self.controller.jobs}
        assert codes <= {"NeverFits", "DevicesUnhealthy", "LowerPriority"}, codes


TestController = ControllerMachine.TestCase
TestController.settings = settings(max_examples=60, stateful_step_count=40)
