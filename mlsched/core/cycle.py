"""One cycle of the scheduler: which pending jobs start now, and why the others do not.

`decide` reads like the product: order, gates, place, guard the blocked job, explain.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mlsched.core.feasibility import never_fits, shortage
from mlsched.core.gates import gate
from mlsched.core.ledger import Ledger
from mlsched.core.placement import describe_choice, place
from mlsched.core.policies import Policy
from mlsched.model.jobs import GroupPlacement, Job, needs_of
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.resources import GroupNeed, need_of
from mlsched.model.snapshots import ClusterSnapshot, Plan

Shape = tuple[GroupNeed, int] | tuple[GroupNeed, ...]
"""What jobs have in common that fit, or do not fit, together."""


def shape_of(job: Job) -> Shape:
    """The need of each group and their number; all needs for a gang whose members differ."""
    return job.needs or (need_of(job.spec), job.spec.nodes)


def decide(snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> Plan:
    """The plan for one instant.

    Higher in the order starts first. A job may overtake the first one that waits for room only if
    that one would still fit once everything that is ahead of it ends, so that small jobs use what
    a large one cannot, and nobody waits for ever.

    The ledger is the same after the call as before it. Same input, same plan.

    Cost: O(candidates + shapes x nodes), since a shape that did not fit is not tried again.
    """
    savepoint = ledger.savepoint()
    try:
        cycle = _Cycle(snapshot, ledger, policy)
        for job in sorted(snapshot.candidates, key=policy.key):
            cycle.consider(job)
        blocked = cycle.blocked.id if cycle.blocked else None
        return Plan(cycle.placements, cycle.choices, cycle.reasons, blocked)
    finally:
        ledger.rollback(savepoint)


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
        self._array_running = dict(snapshot.array_running)
        self._refused: dict[Shape, Reason] = {}
        self._shadow: Ledger | None = None

    def consider(self, job: Job) -> None:
        """Place a job, or note its one reason."""
        reason = gate(job, self.snapshot, self._array_running)
        if reason is None:
            reason = self._try_to_place(job)
        if reason is not None:
            self.reasons[job.id] = reason

    def _try_to_place(self, job: Job) -> Reason | None:
        shape = shape_of(job)
        if shape in self._refused:
            return self._refused[shape]
        needs = needs_of(job)
        placements = place(needs, self.ledger)
        if placements is None:
            reason = self._refuse(needs)
            self._refused[shape] = reason
            if self.blocked is None and reason.code is not ReasonCode.NEVER_FITS:
                self.blocked = job
            return reason
        if self.blocked is not None and self._delays_blocked(job, placements):
            return self._behind(self.blocked)
        self._accept(job, placements)
        return None

    def _refuse(self, needs: Sequence[GroupNeed]) -> Reason:
        return never_fits(needs, self.ledger) or shortage(needs, self.ledger, self._name_of)

    def _name_of(self, job_id: str) -> str:
        placed = self.snapshot.placed.get(job_id)
        return self._names.get(job_id) or (placed.name if placed else job_id)

    def _accept(self, job: Job, placements: tuple[GroupPlacement, ...]) -> None:
        self.choices[job.id] = describe_choice(needs_of(job)[0], placements, self.ledger)
        self.ledger.take(job.id, placements)
        self.placements[job.id] = placements
        self._names[job.id] = job.name
        if job.array is not None:
            running = self._array_running.get(job.array.array_id, 0)
            self._array_running[job.array.array_id] = running + 1

    def _delays_blocked(self, job: Job, placements: tuple[GroupPlacement, ...]) -> bool:
        """Whether the blocked job could not start any more once all that is ahead of it ends."""
        if self.blocked is None:
            return False
        if self._shadow is None:
            self._shadow = self._after_the_ones_ahead(self.blocked)
        savepoint = self._shadow.savepoint()
        self._shadow.take(job.id, placements)
        if place(needs_of(self.blocked), self._shadow) is not None:
            return False
        self._shadow.rollback(savepoint)
        return True

    def _after_the_ones_ahead(self, blocked: Job) -> Ledger:
        limit = self.policy.key(blocked)
        overtakers = {
            job_id: job.placements
            for job_id, job in self.snapshot.placed.items()
            if self.policy.key(job) > limit
        }
        return Ledger(self.ledger.nodes.values(), overtakers)

    def _behind(self, blocked: Job) -> Reason:
        text = f"would fit, but must not delay {blocked.name}, which is ahead of it"
        return Reason(ReasonCode.LOWER_PRIORITY, text, {"behind": blocked.name})


def trial(job: Job, snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> Plan:
    """What `decide` would do with one more job, beside those that wait already."""
    return decide(replace(snapshot, candidates=(*snapshot.candidates, job)), ledger, policy)
