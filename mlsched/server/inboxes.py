"""What happens in one turn of the loop of a cluster's controller, gathered into one step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mlsched.model.events import AttemptEnded, Event, JobRestored
from mlsched.runtime.controller import Controller
from mlsched.runtime.driver import Driver

BuildNode = Callable[[str, Callable[[str], bool]], Event]
"""The event of a node, by its name; the second argument tells whether a slot is held."""


class Inbox:
    """Events, and names of nodes of which something changed, until the loop has its next turn.

    Args:
        controller: Who holds what.
        build_node: Called once a step for each node that changed.
        flush_gangs: Gives the jobs of others that came together or fell apart.

    Attributes:
        driver: Takes the steps; set before the first.
    """

    driver: Driver

    def __init__(
        self,
        controller: Controller,
        build_node: BuildNode,
        flush_gangs: Callable[[], list[Event]],
    ) -> None:
        self._controller = controller
        self._build_node = build_node
        self._flush_gangs = flush_gangs
        self._events: list[Event] = []
        self._nodes: dict[str, None] = {}
        self._is_due = False

    def emit(self, event: Event) -> None:
        """Take an event."""
        self._events.append(event)
        self.open_soon()

    def touch(self, node: str) -> None:
        """Something of a node changed."""
        self._nodes[node] = None
        self.open_soon()

    def open_soon(self) -> None:
        """Take a step once everything of this turn has happened."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.open)

    def open(self) -> None:
        """One step with everything that happened since the last one.

        Raises:
            Exception: a bug of ours; what happened is lost, so that the driver gives up.
        """
        self._is_due = False
        try:
            events = self._take()
        except Exception as error:
            self.driver.fail(f"what happened cannot be told: {error!r}")
            raise
        if events:
            self.driver.post(*events)

    def _take(self) -> list[Event]:
        told, self._events = self._events, []
        changed, self._nodes = self._nodes, {}
        is_held = holding_after(self._controller, told)
        nodes = [self._build_node(name, is_held) for name in changed]
        return [*nodes, *told, *self._flush_gangs()]


def holding_after(controller: Controller, told: list[Event]) -> Callable[[str], bool]:
    """Whether a slot is held once these events, which are folded with the nodes, are."""
    ending = {(e.job_id, e.attempt) for e in told if isinstance(e, AttemptEnded)}
    restored = [e.job for e in told if isinstance(e, JobRestored)]
    taken = {slot for job in restored for group in job.placements for slot in group.devices}

    def goes_on(job_id: str) -> bool:
        job = controller.jobs.get(job_id)
        return job is None or (job.id, job.attempt) not in ending

    def is_held(slot: str) -> bool:
        return slot in taken or any(map(goes_on, controller.ledger.holders_of(slot)))

    return is_held
