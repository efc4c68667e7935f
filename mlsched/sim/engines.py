"""The simulation engine: a heap of future events, a virtual clock, and the real controller.

Implements what the driver and the actuator do in production: carries out commands and sends the
events that follow. Deterministic: equal workloads give equal histories, whatever PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from mlsched.model.commands import Command, LaunchAttempt, SaveJob, StopAttempt
from mlsched.model.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    Instant,
    JobRestored,
    JobSubmitted,
    NodeObserved,
    TimerFired,
)
from mlsched.model.jobs import EndCause, Job, JobState, Outcome, ResolvedDependency
from mlsched.model.nodes import Node
from mlsched.model.specs import JobSpec
from mlsched.runtime.controller import Controller

WALL_START_MS = 1_700_000_000_000
"""Wall clock at virtual time zero: any fixed instant."""


class Arrival(Struct, frozen=True):
    """One job of a workload, and how it will behave."""

    at_ms: int
    name: str
    spec: JobSpec
    run_ms: int
    outcome: Outcome = Outcome(EndCause.EXITED, 0)
    """How each of its attempts ends after ``run_ms``, unless it is stopped before."""
    after: tuple[ResolvedDependency, ...] = ()


class Engine:
    """Runs one workload on one cluster.

    Args:
        nodes: The cluster; observed at time zero.
        launch_ms: Between a launch and the start of the user's process.
        check: Called with the controller after every step: invariants, in tests.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        *,
        controller: Callable[[], Controller] = Controller,
        launch_ms: int = 50,
        check: Callable[[Controller], None] = lambda controller: None,
    ) -> None:
        self.now_ms = 0
        self.jobs: dict[str, Job] = {}
        """The store: the newest saved version of every job, by id."""
        self.launches: dict[str, Counter[int]] = defaultdict(Counter)
        """How often each attempt of each job was started, by id and number."""
        self.steps = 0
        self._make = controller
        self.controller = controller()
        self._nodes = list(nodes)
        self._launch_ms = launch_ms
        self._check = check
        self._heap: list[tuple[int, int, Event]] = []
        self._order = itertools.count()
        self._arrivals: dict[str, Arrival] = {}
        self._timer_ms: int | None = None
        self._stopped: set[tuple[str, int]] = set()
        self._running: dict[tuple[str, int], int] = {}
        self._digest = hashlib.blake2b(digest_size=16)
        self._observe_nodes()

    @property
    def digest(self) -> str:
        """Hash of every event and command so far, in order: equal runs have equal digests."""
        return self._digest.hexdigest()

    def load(self, arrivals: Iterable[Arrival]) -> list[str]:
        """Submit a workload in order of arrival; ids in the order of the workload."""
        listed = list(arrivals)
        order = sorted(range(len(listed)), key=lambda index: listed[index].at_ms)
        ids = {index: self.submit(listed[index]) for index in order}
        return [ids[index] for index in range(len(listed))]

    def submit(self, arrival: Arrival) -> str:
        """Add one job, which comes after those that were added before it; returns its id."""
        seq = len(self._arrivals) + 1
        job = Job(
            id=f"{seq:08x}",
            name=arrival.name,
            seq=seq,
            spec=arrival.spec,
            submitted_at_ms=WALL_START_MS + arrival.at_ms,
            after=arrival.after,
        )
        self._arrivals[job.id] = arrival
        self.schedule(arrival.at_ms, JobSubmitted(job))
        return job.id

    def schedule(self, at_ms: int, event: Event) -> None:
        """Let an event happen at a virtual instant."""
        heapq.heappush(self._heap, (at_ms, next(self._order), event))

    @property
    def next_ms(self) -> int | None:
        """Virtual instant of what happens next; None when nothing is left to happen."""
        return self._heap[0][0] if self._heap else None

    def run(self, until_ms: int | None = None) -> None:
        """Let time pass until nothing is left to happen, or up to an instant."""
        while self._heap and (until_ms is None or self._heap[0][0] <= until_ms):
            at_ms, _, event = heapq.heappop(self._heap)
            self.now_ms = max(self.now_ms, at_ms)
            if not self._is_void(event):
                self._step([event])

    def crash(self) -> None:
        """Lose the controller and start a new one from what was saved; attempts go on."""
        self.controller = self._make()
        open_jobs = [job for job in self.jobs.values() if not job.state.is_ended]
        ended = {job.id: job.state for job in self.jobs.values() if job.state.is_ended}
        self._step([JobRestored(job, ended) for job in open_jobs])
        for job in open_jobs:
            if job.state.is_placed and (job.id, job.attempt) not in self._running:
                self._step([AttemptEnded(job.id, job.attempt, Outcome(EndCause.REVOKED))])
        self._observe_nodes()

    def _observe_nodes(self) -> None:
        self._step([NodeObserved(node) for node in self._nodes])

    def _is_void(self, event: Event) -> bool:
        """True for the end of an attempt that was stopped before it came to that end."""
        if isinstance(event, TimerFired):
            return self.now_ms != self._timer_ms
        if not isinstance(event, AttemptStarted | AttemptEnded):
            return False
        key = (event.job_id, event.attempt)
        if isinstance(event, AttemptStarted):
            return key in self._stopped
        return key in self._stopped and event.outcome.cause is not EndCause.STOPPED

    def _step(self, events: list[Event]) -> None:
        now = Instant(self.now_ms, WALL_START_MS + self.now_ms)
        for event in events:
            if isinstance(event, AttemptEnded):
                self._running.pop((event.job_id, event.attempt), None)
        step = self.controller.step(events, now)
        self.steps += 1
        self._note(events, step.commands)
        for command in step.commands:
            self._carry_out(command)
        self._wake_at(step.wake_at_ms)
        self._check(self.controller)

    def _wake_at(self, wake_at_ms: int | None) -> None:
        """One timer at a time, as in the driver: the newest step says when the next one is due."""
        if wake_at_ms is not None and wake_at_ms != self._timer_ms:
            self.schedule(wake_at_ms, TimerFired())
        self._timer_ms = wake_at_ms

    def _carry_out(self, command: Command) -> None:
        match command:
            case SaveJob(job=job):
                self.jobs[job.id] = job
            case LaunchAttempt(job=job):
                self._launch(job)
            case StopAttempt(job_id=job_id, attempt=attempt):
                self._stop(job_id, attempt)

    def _launch(self, job: Job) -> None:
        key = (job.id, job.attempt)
        if key in self._running:
            return
        arrival = self._arrivals[job.id]
        start_ms = self.now_ms + self._launch_ms
        self._running[key] = start_ms
        self.launches[job.id][job.attempt] += 1
        self.schedule(start_ms, AttemptStarted(job.id, job.attempt, WALL_START_MS + start_ms))
        end_ms = start_ms + arrival.run_ms
        outcome = msgspec.structs.replace(
            arrival.outcome, run_ms=arrival.run_ms, ended_at_ms=WALL_START_MS + end_ms
        )
        self.schedule(end_ms, AttemptEnded(job.id, job.attempt, outcome))

    def _stop(self, job_id: str, attempt: int) -> None:
        key = (job_id, attempt)
        if key in self._stopped or key not in self._running:
            return
        self._stopped.add(key)
        outcome = Outcome(EndCause.STOPPED, 143, 15, ended_at_ms=WALL_START_MS + self.now_ms)
        self.schedule(self.now_ms, AttemptEnded(job_id, attempt, outcome))

    def _note(self, events: list[Event], commands: tuple[Command, ...]) -> None:
        for item in (*events, *commands):
            self._digest.update(type(item).__name__.encode())
            self._digest.update(msgspec.json.encode(item))


def unfinished(engine: Engine) -> list[Job]:
    """Jobs of a finished run that have not ended: empty when the scheduler makes progress."""
    return [job for job in engine.jobs.values() if job.state not in _ENDED]


_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
