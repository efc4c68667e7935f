"""The controller: events and the time in, commands out. Synchronous, no I/O.

Two callers only: the asyncio driver and the simulation engine. Both send the same events and carry
out the same commands; nothing here knows which of them it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mlsched.core import invariants
from mlsched.core.backlogs import Placed
from mlsched.core.cycle import decide
from mlsched.core.gates import dependency_failed, own_gate
from mlsched.core.ledger import Ledger
from mlsched.core.lifecycle import (
    CANCELLED,
    Move,
    advance,
    cannot_be_killed,
    close_attempt,
    count_revoked,
    end,
    place,
    start,
)
from mlsched.core.policies import Policy
from mlsched.core.policies.fifo import Fifo
from mlsched.model.commands import Command, LaunchAttempt, SaveJob, Step, StopAttempt
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
from mlsched.model.jobs import Job, queue_key
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.snapshots import ClusterSnapshot
from mlsched.runtime.arrays import Arrays
from mlsched.runtime.dependencies import Dependencies
from mlsched.runtime.pending import Pending
from mlsched.runtime.successors import Arrival, Successors


class RetrySettings(Struct, frozen=True):
    """Wait before a try: doubles with each one that was in vain, up to a bound."""

    delay_ms: int = 1_000
    delay_ms_max: int = 300_000

    def delay_after(self, tries: int) -> int:
        """Milliseconds to wait after that many more than the first."""
        return min(self.delay_ms_max, self.delay_ms << min(tries, 20))


class Controller:
    """State of one cluster, folded from events.

    Attributes:
        jobs: Every job that has not ended, by id.
        reasons: Why each pending job waits, by id; fresh after every step.
        ledger: Who holds what.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        retry: RetrySettings | None = None,
        *,
        checks: bool = True,
    ) -> None:
        self.policy: Policy = policy or Fifo()
        self.retry = retry or RetrySettings()
        self.jobs: dict[str, Job] = {}
        self.reasons: dict[str, Reason] = {}
        self.ledger = Ledger()
        self._checks = checks
        self._placed = Placed(self.policy)
        self._dependencies = Dependencies()
        self._arrays = Arrays()
        self._paused_queues: frozenset[str] = frozenset()
        self._withdrawn = Successors()
        self._pending = Pending(self.policy)
        self._changed: dict[str, Job] = {}
        self._dirty: dict[str, Job] = {}
        self._commands: list[Command] = []

    def step(self, events: Sequence[Event], now: Instant) -> Step:
        """Fold events into the state, decide, and say what to do.

        Returns:
            Commands in the order in which they must be carried out: first every record that must
            be durable, then what acts; and the monotonic instant of the next step.

        Raises:
            InvariantError: a law is broken; the state must not be used any more.
        """
        for event in events:
            self._fold(event, now)
        self._pending.end_backoffs(now.mono_ms)
        self._schedule(now)
        commands = (*(SaveJob(job) for job in self._dirty.values()), *self._commands)
        changed, self._changed = self._changed, {}
        self._dirty, self._commands = {}, []
        if self._checks and changed:
            invariants.check_changed(changed.values(), len(self._placed), self.ledger)
        return Step(commands, self._pending.backoffs.next_ms())

    def snapshot(self, now: Instant) -> ClusterSnapshot:
        """Everything that a decision may look at; all pending jobs are candidates."""
        return self._snapshot([j.id for j in self.jobs.values() if _waits(j)], now)

    def reason_of(self, job: Job) -> Reason | None:
        """The freshest reason of a job of any state."""
        return self.reasons.get(job.id) if _waits(job) else job.reason

    def is_open(self, one: str) -> bool:
        """Whether a job, or an array with this id, has not ended yet."""
        return one in self.jobs or self._arrays.is_open(one)

    def _fold(self, event: Event, now: Instant) -> None:
        match event:
            case JobSubmitted() | JobRestored():
                self._accept(event, now)
            case CancelRequested():
                self._cancel(event, now)
            case JobWithdrawn():
                self._withdraw(event, now)
            case QueueObserved():
                self._observe_queue(event)
            case AttemptStarted():
                self._started(event)
            case AttemptStuck():
                self._stuck(event)
            case AttemptEnded():
                self._ended(event, now)
            case NodeObserved() | NodeLost():
                self._observe_node(event)
            case _:
                pass

    def _accept(self, event: Arrival, now: Instant) -> None:
        job = event.job
        if job.id not in self.jobs:
            self._learn(event)
            self._admit(event, now)
        elif job.id in self._withdrawn:
            self._let_follow(job.id, event)
            self._learn(event)

    def _learn(self, event: Arrival) -> None:
        """Note what a job waits for, and what ended before it came."""
        self._dependencies.learn(event.job, event.ended)
        self._arrays.learn(event.job, event.ended)

    def _admit(self, event: Arrival, now: Instant) -> None:
        job = event.job
        for other in _waiting(self.jobs, self._dependencies.reopen(job)):
            self._pending.look_at(other.id)
        if isinstance(event, JobSubmitted):
            self._put(job)
        else:
            self._remember(job)
        if job.state.is_placed:
            self.ledger.restore(job.id, job.placements)
            if job.cancel_requested:
                self._stop(job)
            return
        self._pending.look_at(job.id)
        lost = self._dependencies.lost(job)
        if job.cancel_requested or lost is not None:
            why = dependency_failed(lost.name) if lost is not None else CANCELLED
            self._finish(job, Move.CANCEL, why, now)

    def _cancel(self, event: CancelRequested, now: Instant) -> None:
        job = self.jobs.get(event.job_id)
        if job is None or self._withdrawn.cancel(job.id):
            return
        if not job.state.is_placed:
            self._finish(job, Move.CANCEL, CANCELLED, now)
            return
        reason = Reason(ReasonCode.CANCELLING, "was asked to stop, and has not ended yet")
        if job.reason is not None and job.reason.code is ReasonCode.CANNOT_BE_KILLED:
            reason = job.reason
        grace_s = job.spec.grace_seconds if event.grace_s is None else event.grace_s
        job = replace(job, cancel_requested=True, cancel_grace_s=grace_s, reason=reason)
        self._put(job)
        self._stop(job)

    def _withdraw(self, event: JobWithdrawn, now: Instant) -> None:
        """A job that waits is forgotten at once; one that holds something once it has ended.

        A job of the same id that is submitted meanwhile waits for that end.
        """
        job = self.jobs.get(event.job_id)
        if job is None:
            return
        is_news = job.id not in self._withdrawn
        self._let_follow(job.id, None)
        self._dirty.pop(job.id, None)
        if is_news:
            if job.state.is_placed:
                self._arrays.withdraw(job)
            self._cancel(CancelRequested(job.id, job.cancel_grace_s), now)

    def _let_follow(self, job_id: str, successor: Arrival | None) -> None:
        replaced = self._withdrawn.put(job_id, successor)
        if replaced is not None:
            self._dependencies.discard(replaced.job)
            self._arrays.discard(replaced.job)

    def _observe_node(self, event: NodeObserved | NodeLost) -> None:
        if isinstance(event, NodeLost):
            self.ledger.forget(event.name)
        elif self.ledger.find(event.node.name) != event.node:
            self.ledger.observe(event.node)
        else:
            return
        self._pending.look_at_all()

    def _observe_queue(self, event: QueueObserved) -> None:
        key = queue_key(event.name, event.namespace)
        if (key in self._paused_queues) != event.paused:
            self._paused_queues ^= {key}
            self._pending.look_at_gates()

    def _stop(self, job: Job) -> None:
        grace_s = job.spec.grace_seconds if job.cancel_grace_s is None else job.cancel_grace_s
        self._commands.append(StopAttempt(job.id, job.attempt, grace_s))

    def _started(self, event: AttemptStarted) -> None:
        job = self._current(event.job_id, event.attempt)
        if job is not None:
            self._put(start(job, event.started_at_ms, event.enforcement))

    def _stuck(self, event: AttemptStuck) -> None:
        """Nothing is released: a device with a living process on it is not free."""
        job = self._current(event.job_id, event.attempt)
        if job is not None:
            self._put(replace(job, reason=cannot_be_killed(event.pids, event.message)))

    def _ended(self, event: AttemptEnded, now: Instant) -> None:
        job = self._current(event.job_id, event.attempt)
        if job is None:
            return
        job, move, reason = close_attempt(job, event.outcome)
        if move is Move.RETRY or move is Move.REVOKE:
            self._again(job, move, reason, now)
        else:
            self._finish(replace(job, exit_code=event.outcome.exit_code), move, reason, now)

    def _again(self, job: Job, move: Move, reason: Reason, now: Instant) -> None:
        tries = job.retries_used if move is Move.RETRY else count_revoked(job)
        until_ms = now.mono_ms + self.retry.delay_after(max(0, tries - 1))
        self._pending.backoffs.set(job.id, until_ms)
        self._release(job.id)
        self._pending.look_at(job.id)
        self._put(replace(advance(job, move, reason), placements=(), started_at_ms=None))

    def _finish(self, job: Job, move: Move, reason: Reason, now: Instant) -> None:
        """End a job, and with it every job that can now never run; then let its successor in."""
        waiting = [(job, move, reason)]
        while waiting:
            ending, how, why = waiting.pop()
            if ending.id not in self.jobs:
                continue
            ended = end(ending, how, why, now.wall_ms)
            self._release(ended.id)
            self._put(ended)
            for other in self._settle(ended):
                lost = self._dependencies.lost(other)
                if lost is not None:
                    waiting.append((other, Move.CANCEL, dependency_failed(lost.name)))
                else:
                    self._pending.look_at(other.id)
        successor = self._withdrawn.pop(job.id)
        if successor is not None:
            self._admit(successor, now)

    def _settle(self, ended: Job) -> list[Job]:
        """Forget an ended job; the pending jobs that depend on it or on its array."""
        self.jobs.pop(ended.id, None)
        self.reasons.pop(ended.id, None)
        self._pending.forget(ended.id)
        if not ended.attempt:
            self._dependencies.discard(ended)
        decided = {ended.id: ended.state}
        whole = self._arrays.track(ended)
        if whole is not None and ended.array is not None:
            decided[ended.array.array_id] = whole
        for one in [one for one in decided if self.is_open(one) or self._withdrawn.expects(one)]:
            del decided[one]  # another stands for it by now
        return _waiting(self.jobs, self._dependencies.settle(decided))

    def _release(self, job_id: str) -> None:
        if self.ledger.release(job_id):
            self._pending.look_at_all()
        self.ledger.commit()

    def _current(self, job_id: str, attempt: int) -> Job | None:
        """The job, if this is its newest attempt and it holds something; else the news is old."""
        job = self.jobs.get(job_id)
        if job is None or job.attempt != attempt or not job.state.is_placed:
            return None
        return job

    def _put(self, job: Job) -> None:
        self._remember(job)
        if job.id not in self._withdrawn:
            self._dirty[job.id] = job

    def _remember(self, job: Job) -> None:
        self._changed[job.id] = job
        if not job.state.is_ended:
            self.jobs[job.id] = job
            self._arrays.track(job)
        if job.state.is_placed:
            self._placed.put(job)
            self.reasons.pop(job.id, None)
        else:
            self._placed.discard(job.id)

    def _schedule(self, now: Instant) -> None:
        """One cycle over what may have changed its answer."""
        ids, backlog = self._pending.take_candidates()
        if not ids and not backlog:
            return
        snapshot = self._snapshot(ids, now)
        plan = decide(snapshot, self.ledger, self.policy, backlog)
        self.reasons.update(plan.reasons)
        self._pending.blocked = plan.blocked
        for job_id, placements in plan.placements.items():
            self._pending.backlog.discard(job_id)
            job = place(self.jobs[job_id], placements, plan.choices[job_id])
            self.ledger.take(job_id, placements)
            self._dependencies.discard(job)
            self._put(job)
            self._commands.append(LaunchAttempt(job))
        self.ledger.commit()
        for job in snapshot.candidates:
            if job.id not in plan.placements:
                self._pending.keep(job, is_gated=own_gate(job, snapshot) is not None)

    def _snapshot(self, ids: Sequence[str], now: Instant) -> ClusterSnapshot:
        return ClusterSnapshot(
            now=now,
            candidates=tuple(self.jobs[job_id] for job_id in ids),
            placed=self._placed,
            states=self._dependencies.known_states((self.jobs[i] for i in ids), self.jobs),
            array_running=self._arrays.running(),
            backoff_until_ms=self._pending.backoff_until_ms,
            paused_queues=self._paused_queues,
        )


def _waits(job: Job) -> bool:
    return not job.state.is_placed and not job.state.is_ended


def _waiting(jobs: Mapping[str, Job], ids: Iterable[str]) -> list[Job]:
    found = (jobs.get(one) for one in ids)
    return [job for job in found if job is not None and _waits(job)]
