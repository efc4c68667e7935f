"""A controller that goes on knows of every job what one that starts from the records would."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from mlsched.core.invariants import check_all
from mlsched.model.commands import LaunchAttempt, SaveJob
from mlsched.model.events import (
    AttemptEnded,
    CancelRequested,
    Event,
    Instant,
    JobRestored,
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
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.runtime.controller import Controller
from mlsched.testing.builders import job, node

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
"""Few, so that names come again while others wait for them."""

DEPENDENCIES = st.builds(
    ResolvedDependency,
    st.sampled_from(["a", "b", "c", "c.0", "c.1"]),
    st.just("other"),
    st.sampled_from(["ok", "any", "fail"]),
)
OUTCOMES = st.sampled_from(
    [
        Outcome(EndCause.EXITED, 0),
        Outcome(EndCause.EXITED, 1),
        Outcome(EndCause.REVOKED),
        Outcome(EndCause.NODE_LOST),
    ]
)
HELD = Reason(ReasonCode.HELD, "")
ROOM = {"WaitingForCapacity", "Fragmented", "LowerPriority"}


class RestartMachine(RuleBasedStateMachine):
    """Objects of a cluster: made, deleted and made again under the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller()
        self.now_ms = 0
        self.seq = 0
        self.objects: dict[str, dict[str, Job]] = {}
        self.attempts: dict[str, int] = {}
        self.leaving: set[str] = set()
        self.gone: set[str] = set()
        """Names of deleted objects and their jobs: records say nothing of how these ended."""
        self.nodes = {name: node(name, 2, cpus=4) for name in "xy"}
        self.paused = False

    def send(self, *events: Event) -> None:
        step = self.controller.step(events, Instant(self.now_ms, self.now_ms))
        for command in step.commands:
            if isinstance(command, SaveJob):
                found = self.objects.get(command.job.id.partition(".")[0], {})
                if command.job.id in found:
                    found[command.job.id] = command.job
            elif isinstance(command, LaunchAttempt):
                self.attempts[command.job.id] = command.job.attempt

    def restored(self, jobs: dict[str, Job]) -> list[Event]:
        """As MLJobs tells them."""
        over = [one.state for one in jobs.values() if one.state.is_ended]
        events: list[Event] = []
        for one in jobs.values():
            if one.state.is_ended:
                continue
            ended = {d.job_id: s for d in one.after if (s := self.end_of(d.job_id)) is not None}
            if one.array is not None and over:
                ended[one.array.array_id] = worst(over)
            events.append(JobRestored(one, ended))
        return events

    def end_of(self, one: str) -> JobState | None:
        found = self.objects.get(one.partition(".")[0], {})
        whole = "." not in one
        states = [job.state for job_id, job in found.items() if whole or job_id == one]
        return worst(states) if states and all(state.is_ended for state in states) else None

    @initialize()
    def observe(self) -> None:
        self.send(*(NodeObserved(one) for one in self.nodes.values()))

    @rule(
        name=NAMES,
        after=st.lists(DEPENDENCIES, max_size=2),
        gpus=st.integers(0, 3),
        size=st.sampled_from([0, 0, 0, 2, 3]),
        bound=st.integers(0, 1),
        priority=st.sampled_from([0, 5]),
    )
    def make(
        self,
        name: str,
        after: list[ResolvedDependency],
        gpus: int,
        size: int,
        bound: int,
        priority: int,
    ) -> None:
        if name in self.objects:
            return
        self.seq += 1
        made = job(name, self.seq, gpus, retries=self.seq % 3, priority=priority, requeue=True)
        after = [one for one in after if one.job_id.partition(".")[0] != name]
        made = replace(made, after=tuple(after))
        arrays = [ArrayMembership(name, name, index, size, bound) for index in range(size)]
        elements = [replace(made, id=f"{name}.{one.index}", array=one) for one in arrays]
        self.objects[name] = {one.id: one for one in elements or [made]}
        self.gone -= {name, *self.objects[name]}
        self.send(*self.restored(self.objects[name]))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.gone.add(name)
        for job_id in self.objects.pop(name, {}):
            self.gone.add(job_id)
            if job_id in self.attempts:
                self.leaving.add(job_id)
            self.send(JobWithdrawn(job_id))

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        self.send(*(CancelRequested(one) for one in self.objects.get(name, {})))

    @rule(data=st.data(), outcome=OUTCOMES)
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        if self.attempts:
            job_id = data.draw(st.sampled_from(sorted(self.attempts)))
            self.leaving.discard(job_id)
            self.send(AttemptEnded(job_id, self.attempts.pop(job_id), outcome))

    @rule(name=st.sampled_from("xy"), gpus=st.integers(0, 3))
    def change_node(self, name: str, gpus: int) -> None:
        if gpus == 3:
            self.nodes.pop(name, None)
            self.send(NodeLost(name))
        else:
            self.nodes[name] = node(name, gpus, cpus=4)
            self.send(NodeObserved(self.nodes[name]))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.send(QueueObserved("default", paused))

    @rule(passed_ms=st.sampled_from([500, 5_000, 400_000]))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.send()

    @invariant()
    def laws_hold(self) -> None:
        check_all(self.controller.jobs.values(), self.controller.ledger, self.controller.reasons)

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        """But that jobs may overtake which were not looked at again: nothing was freed."""
        if self.leaving or any(map(self.is_excused, self.controller.jobs.values())):
            return
        fresh = Controller()
        step = fresh.step(self.everything(), Instant(self.now_ms, self.now_ms))
        launched = [one.job.id for one in step.commands if isinstance(one, LaunchAttempt)]
        reasons = self.controller.reasons
        assert {str(reasons[one].code) for one in launched} <= {"LowerPriority"}
        if launched:
            return
        assert coarse(fresh) == coarse(self.controller)
        assert knowledge(fresh) == knowledge(self.controller)

    def is_excused(self, one: Job) -> bool:
        """Whether the records do not say all of what it waits for."""
        if self.controller.reasons.get(one.id, HELD).code is ReasonCode.RETRY_BACKOFF:
            return True
        return not one.attempt and any(d.job_id in self.gone for d in one.after)

    def everything(self) -> list[Event]:
        """What a controller is told at its start, objects in the order of their creation."""
        events: list[Event] = [NodeObserved(one) for one in self.nodes.values()]
        events.append(QueueObserved("default", self.paused))
        order = sorted(self.objects.values(), key=lambda jobs: next(iter(jobs.values())).seq)
        return [*events, *(event for jobs in order for event in self.restored(jobs))]


def knowledge(one: Controller) -> tuple[object, ...]:
    """What is kept beside jobs and reasons."""
    dependencies = one._dependencies
    waiting = {key: set(ids) for key, ids in dependencies._dependents.items()}
    return set(one.jobs), one._arrays.running(), dependencies._states, waiting


def worst(states: list[JobState]) -> JobState:
    order = (JobState.FAILED, JobState.CANCELLED, JobState.SUCCEEDED)
    return min(states, key=order.index)


def coarse(one: Controller) -> dict[str, str]:
    """Codes of the reasons; which kind of room is missing may be told otherwise."""
    codes = {job_id: str(reason.code) for job_id, reason in one.reasons.items()}
    return {job_id: "room" if code in ROOM else code for job_id, code in codes.items()}


TestRestart = RestartMachine.TestCase
TestRestart.settings = settings(max_examples=60, stateful_step_count=30)
