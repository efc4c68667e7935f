"""A language for scheduling cases: nodes, jobs, and what must come of them, in a line each.

case.node("a", gpus=8)
case.job("big", gpus=8, running_on="a")
case.job("next", gpus=4)
case.expect(waits={"next": "WaitingForCapacity"})
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from mlsched.core.cycle import decide
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.core.policies.fifo import Fifo
from mlsched.model.events import Instant
from mlsched.model.jobs import Job, JobState, needs_of
from mlsched.model.nodes import Device, Node
from mlsched.model.resources import GroupNeed
from mlsched.model.snapshots import ClusterSnapshot, Plan
from mlsched.testing import builders


class Case:
    """One cluster at one instant. A case that was never checked is a mistake: see `checked`."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.jobs: list[Job] = []
        self.states: dict[str, JobState] = {}
        self.backoffs: dict[str, int] = {}
        self.paused_queues: frozenset[str] = frozenset()
        self.checked = False
        self._running_on: dict[str, str] = {}

    def node(self, name: str, gpus: int = 0, devices: tuple[Device, ...] = (), **more: Any) -> None:
        """Add a node."""
        made = builders.node(name, gpus, **more)
        self.nodes.append(replace(made, devices=devices) if devices else made)

    def gang(self, name: str, *needs: GroupNeed) -> Job:
        """Add a gang whose members differ."""
        made = replace(self.job(name), needs=needs)
        self.jobs[-1] = made
        return made

    def job(self, name: str, gpus: int = 0, *, running_on: str = "", **more: Any) -> Job:
        """Add a job, in order of acceptance; with ``running_on`` it holds its need on that node."""
        made = builders.job(name, len(self.jobs) + 1, gpus, **more)
        if running_on:
            self._running_on[name] = running_on
        self.jobs.append(made)
        return made

    def plan(self) -> Plan:
        """What one cycle decides."""
        self.checked = True
        snapshot, ledger = self.snapshot()
        return decide(snapshot, ledger, Fifo())

    def snapshot(self) -> tuple[ClusterSnapshot, Ledger]:
        """The case as a snapshot and its ledger."""
        ledger = Ledger(self.nodes)
        placed: dict[str, Job] = {}
        for job in self.jobs:
            if job.id in self._running_on:
                only = Ledger([n for n in self.nodes if n.name == self._running_on[job.id]])
                for other in placed.values():
                    if other.placements[0].node in only.nodes:
                        only.take(other.id, other.placements)
                placements = place(needs_of(job), only)
                if placements is None:
                    raise AssertionError(f"{job.name} does not fit on {self._running_on[job.id]}")
                placed[job.id] = replace(job, state=JobState.RUNNING, placements=placements)
                ledger.take(job.id, placements)
        ledger.commit()
        candidates = tuple(job for job in self.jobs if job.id not in placed)
        states = self.states | {job.id: JobState.PENDING for job in candidates}
        now = Instant(1000, 1000)
        snapshot = ClusterSnapshot(
            now,
            candidates,
            placed,
            states,
            backoff_until_ms=self.backoffs,
            paused_queues=self.paused_queues,
        )
        return snapshot, ledger

    def expect(
        self,
        starts: dict[str, str] | None = None,
        waits: dict[str, str] | None = None,
    ) -> None:
        """Check the plan: jobs that start, with the node of their first group; codes of the rest.

        Raises:
            AssertionError: the plan is another one.
        """
        plan = self.plan()
        found = {job_id: groups[0].node for job_id, groups in plan.placements.items()}
        if starts is not None:
            assert found == starts, f"starts {found}, reasons {plan.reasons}"
        if waits is not None:
            codes = {job_id: str(reason.code) for job_id, reason in plan.reasons.items()}
            assert codes == waits, f"waits {codes}, starts {found}"
