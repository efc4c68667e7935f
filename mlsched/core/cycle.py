"""One cycle of the scheduler: which pending jobs start now, and why the others do not.

`decide` reads like the product: order, gates, place, guard the blocked job, explain.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from msgspec.structs import replace

from mlsched.core.backlogs import Backlog, Lane, Placed, Shape
from mlsched.core.feasibility import never_fits, shortage
from mlsched.core.gates import own_gate, queue_gate, throttle_gate
from mlsched.core.guards import Guard
from mlsched.core.ledger import Ledger
from mlsched.core.placement import describe_choice, place
from mlsched.core.policies import Policy
from mlsched.model.jobs import GroupPlacement, Job, needs_of
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.snapshots import ClusterSnapshot, Plan


def decide(
    snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy, backlog: Backlog | None = None
) -> Plan:
    """The plan for one instant.

    Higher in the order starts first. A job may overtake the first one that waits for room only if
    that one would still fit once everything that is ahead of it ends, so that small jobs use what
    a large one cannot, and nobody waits for ever. One that could not start even then, because
    nodes or devices are not well, holds nobody up.

    The ledger is the same after the call as before it. Same input, same plan.

    Args:
        backlog: More candidates, which their caller keeps in lanes; none is in backoff or waits
            for a dependency.

    Cost: O(candidates + shapes x log nodes + jobs that start), since of a shape that did not fit
    no other job is tried; O(nodes) for a shape that is new to the ledger.
    """
    savepoint = ledger.savepoint()
    cycle = _Cycle(snapshot, ledger, policy)
    try:
        cycle.run(backlog)
        blocked = cycle.blocked.id if cycle.blocked else None
        return Plan(cycle.placements, cycle.choices, cycle.reasons, blocked)
    finally:
        cycle.close()
        ledger.rollback(savepoint)


class _Turn:
    """A lane in one cycle: which of its jobs is next."""

    __slots__ = ("at", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.at = 0


class _Cycle:
    """The working state of one call of `decide`."""

    def __init__(self, snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> None:
        self.snapshot = snapshot
        self.ledger = ledger
        self.policy = policy
        self.placements: dict[str, tuple[GroupPlacement, ...]] = {}
        self.choices: dict[str, str] = {}
        self.reasons: dict[str, Reason] = {}
        self.blocked: Job | None = None
        self._names: dict[str, str] = {}
        self._started: dict[str, int] = {}
        self._refused: dict[Shape, Reason] = {}
        self._guard: Guard | None = None
        self._turns: list[tuple[tuple[int, ...], int, _Turn]] = []
        self._parked: list[tuple[int, _Turn]] = []

    def run(self, backlog: Backlog | None) -> None:
        """Look at every lane in the order of the policy until each has ended or waits."""
        lanes = [*self._sort_candidates().lanes, *(backlog.lanes if backlog else ())]
        for number, lane in enumerate(lanes):
            self._turns.append((lane.keys[0], number, _Turn(lane)))
        heapq.heapify(self._turns)
        while self._turns:
            key, number, turn = heapq.heappop(self._turns)
            job = turn.lane.jobs[turn.lane.ids[turn.at]]
            reason = self._consider(job, turn.lane)
            if reason is None:
                self._queue_again(number, turn, key)
                self._unpark(key)
            elif reason.code is ReasonCode.LOWER_PRIORITY:
                self._parked.append((number, turn))
            else:
                self._tell(turn, len(turn.lane.ids), reason)
        for _, turn in self._parked:
            self._tell(turn, len(turn.lane.ids), self._behind())

    def close(self) -> None:
        """Give back what was borrowed."""
        if self._guard is not None:
            self._guard.close()

    def _sort_candidates(self) -> Backlog:
        """Candidates whose own gates are open, in lanes; the others get their reason here."""
        backlog = Backlog(self.policy)
        for job in self.snapshot.candidates:
            reason = queue_gate(job, self.snapshot.paused_queues) or own_gate(job, self.snapshot)
            if reason is None:
                backlog.add(job)
            else:
                self.reasons[job.id] = reason
        return backlog

    def _queue_again(self, number: int, turn: _Turn, key: tuple[int, ...]) -> None:
        """The next job of a lane behind a key has its turn when its own key comes up."""
        turn.at = turn.lane.index_behind(key, turn.at)
        if turn.at < len(turn.lane.keys):
            heapq.heappush(self._turns, (turn.lane.keys[turn.at], number, turn))

    def _unpark(self, key: tuple[int, ...]) -> None:
        """Another job has started, so what would have delayed the blocked one may fit elsewhere."""
        parked, self._parked = self._parked, []
        for number, turn in parked:
            self._tell(turn, turn.lane.index_behind(key, turn.at), self._behind())
            self._queue_again(number, turn, key)

    def _tell(self, turn: _Turn, end: int, reason: Reason) -> None:
        self.reasons.update(dict.fromkeys(turn.lane.ids[turn.at : end], reason))

    def _consider(self, job: Job, lane: Lane) -> Reason | None:
        """Place a job, or say why not; the reason holds for all behind it in the lane."""
        reason = queue_gate(job, self.snapshot.paused_queues)
        throttled = throttle_gate(job, self._count_running(job))
        if reason is None and throttled is not None:
            reason = never_fits(lane.needs, self.ledger) or throttled
        reason = reason or self._refused.get(lane.shape)
        if reason is not None:
            return reason
        placements = place(lane.needs, self.ledger)
        if placements is None:
            reason = self._refused[lane.shape] = self._refuse(job, lane)
            return reason
        if self.blocked is not None and not self._guard_of(self.blocked).allows(job.id, placements):
            return self._behind()
        self._accept(job, lane, placements)
        return None

    def _count_running(self, job: Job) -> int:
        if job.array is None:
            return 0
        array_id = job.array.array_id
        return self.snapshot.array_running.get(array_id, 0) + self._started.get(array_id, 0)

    def _refuse(self, job: Job, lane: Lane) -> Reason:
        never = never_fits(lane.needs, self.ledger)
        if never is not None:
            return never
        if self.blocked is None and place(lane.needs, self.ledger.empty) is not None:
            self.blocked = job
        return shortage(lane.needs, self.ledger, self._name_of)

    def _name_of(self, job_id: str) -> str:
        placed = self.snapshot.placed.get(job_id)
        return self._names.get(job_id) or (placed.name if placed else job_id)

    def _accept(self, job: Job, lane: Lane, placements: tuple[GroupPlacement, ...]) -> None:
        self.choices[job.id] = describe_choice(lane.needs[0], placements, self.ledger)
        self.ledger.take(job.id, placements)
        self.placements[job.id] = placements
        self._names[job.id] = job.name
        if job.array is not None:
            array_id = job.array.array_id
            self._started[array_id] = self._started.get(array_id, 0) + 1

    def _guard_of(self, blocked: Job) -> Guard:
        """The guard of the blocked job: what is behind it in the order and holds something stays.

        Jobs that start in this cycle before the guard is there are ahead of the blocked one.
        """
        if self._guard is None:
            limit = self.policy.key(blocked)
            placed, key = self.snapshot.placed, self.policy.key

            def overtook(job_id: str) -> bool:
                return job_id in placed and key(placed[job_id]) > limit

            def overtakers() -> Iterable[str]:
                if isinstance(placed, Placed):
                    return placed.behind(limit)
                return filter(overtook, placed)

            shadow = self.ledger.mirror((self.policy, limit), overtook, overtakers)
            self._guard = Guard(needs_of(blocked), shadow)
        return self._guard

    def _behind(self) -> Reason:
        name = self.blocked.name if self.blocked else ""
        text = f"would fit, but must not delay {name}, which is ahead of it"
        return Reason(ReasonCode.LOWER_PRIORITY, text, {"behind": name})


def trial(job: Job, snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> Plan:
    """What `decide` would do with one more job, beside those that wait already."""
    return decide(replace(snapshot, candidates=(*snapshot.candidates, job)), ledger, policy)
