"""What is told of nodes is told in the step of what ends on them; nothing is lost in silence."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import pytest

from mlsched.model.events import AttemptEnded, Event, JobRestored, NodeLost
from mlsched.model.jobs import EndCause, GroupPlacement, Job, JobState, Outcome
from mlsched.model.nodes import Device, Node
from mlsched.model.specs import JobSpec
from mlsched.runtime.controller import Controller
from mlsched.server.inboxes import Inbox, holding_after

SLOT = "node-a/gpu-0"


def placed(name: str, slot: str) -> Job:
    return Job(
        id=name,
        name=name,
        seq=1,
        spec=JobSpec(command=("x",)),
        submitted_at_ms=0,
        state=JobState.RUNNING,
        attempt=1,
        placements=(GroupPlacement("node-a", 0, 0, (slot,)),),
    )


def take(controller: Controller, job: Job) -> None:
    controller.ledger.observe(Node("node-a", 8000, 0, (Device(SLOT, "H100", 0),)))
    controller.jobs[job.id] = job
    controller.ledger.take(job.id, job.placements)


def test_a_slot_whose_job_ends_in_the_same_step_is_not_held() -> None:
    controller = Controller()
    take(controller, placed("n/a", SLOT))
    end = AttemptEnded("n/a", 1, Outcome(EndCause.EXITED, 0))
    assert holding_after(controller, [])(SLOT)
    assert not holding_after(controller, [end])(SLOT)


def test_the_end_of_another_attempt_frees_nothing() -> None:
    controller = Controller()
    take(controller, placed("n/a", SLOT))
    old = AttemptEnded("n/a", 0, Outcome(EndCause.EXITED, 0))
    assert holding_after(controller, [old])(SLOT)


def test_a_slot_that_two_records_name_is_held_until_both_have_ended() -> None:
    controller = Controller()
    take(controller, placed("n/a", SLOT))
    other = placed("n/b", SLOT)
    controller.jobs[other.id] = other
    controller.ledger.restore(other.id, other.placements)
    ends = [AttemptEnded(name, 1, Outcome(EndCause.EXITED, 0)) for name in ("n/a", "n/b")]
    assert holding_after(controller, ends[:1])(SLOT)
    assert holding_after(controller, ends[1:])(SLOT)
    assert not holding_after(controller, ends)(SLOT)


def test_a_slot_of_a_job_that_is_restored_in_the_same_step_is_held() -> None:
    controller = Controller()
    told = JobRestored(placed("n/a", SLOT), {})
    assert not holding_after(controller, [])(SLOT)
    assert holding_after(controller, [told])(SLOT)


class Posted:
    """A driver that notes what it is given."""

    def __init__(self) -> None:
        self.steps: list[tuple[Event, ...]] = []
        self.failures: list[str] = []
        self.was_asked = asyncio.Event()

    def post(self, *events: Event) -> None:
        self.steps.append(events)
        self.was_asked.set()

    def fail(self, why: str) -> None:
        self.failures.append(why)


def inbox_of(posted: Any, **more: Any) -> Inbox:
    inbox = Inbox(
        Controller(),
        more.get("build_node", lambda name, is_held: NodeLost(name)),
        more.get("flush_gangs", list),
    )
    inbox.driver = posted
    return inbox


def test_one_turn_is_one_step_with_each_node_once() -> None:
    async def scenario() -> None:
        posted = Posted()
        inbox = inbox_of(posted)
        end = AttemptEnded("n/a", 1, Outcome(EndCause.EXITED, 0))
        inbox.emit(end)
        for name in ("b", "a", "b"):
            inbox.touch(name)
        assert posted.steps == []
        await asyncio.wait_for(posted.was_asked.wait(), 20)
        assert posted.steps == [(NodeLost("b"), NodeLost("a"), end)]

    asyncio.run(scenario())


def test_what_cannot_be_told_makes_the_driver_give_up() -> None:
    """Else it would hold its lease for ever, and everything that happened would be lost to it."""

    def fail(*_: object) -> NoReturn:
        raise RuntimeError("a bug")

    for broken in ({"build_node": fail}, {"flush_gangs": fail}):
        posted = Posted()
        inbox = inbox_of(posted, **broken)
        inbox._nodes["a"] = None
        with pytest.raises(RuntimeError, match="a bug"):
            inbox.open()
        assert len(posted.failures) == 1
