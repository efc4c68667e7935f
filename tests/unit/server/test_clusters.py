"""What the controller of a cluster tells of its nodes, in the same step as what ends on them."""

from __future__ import annotations

import asyncio
import ssl
from typing import NoReturn

import pytest

from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.configs import Access
from mlsched.model.events import AttemptEnded, JobRestored
from mlsched.model.jobs import EndCause, GroupPlacement, Job, JobState, Outcome
from mlsched.model.nodes import Device, Node
from mlsched.model.specs import JobSpec
from mlsched.server.clusters import ClusterController, ClusterSettings

SLOT = "node-a/gpu-0"


class Nobody:
    """Asks without a name."""

    def authorization(self) -> str:
        return ""

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def make_controller() -> ClusterController:
    """One that asks nobody."""
    access = Access("https://nobody.invalid", Nobody(), "default", "none")
    return ClusterController(access, ClusterSettings())


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


def take(controller: ClusterController, job: Job) -> None:
    controller.controller.ledger.observe(Node("node-a", 8000, 0, (Device(SLOT, "H100", 0),)))
    controller.controller.jobs[job.id] = job
    controller.controller.ledger.take(job.id, job.placements)


def test_a_slot_whose_job_ends_in_the_same_step_is_not_held() -> None:
    controller = make_controller()
    take(controller, placed("n/a", SLOT))
    end = AttemptEnded("n/a", 1, Outcome(EndCause.EXITED, 0))
    assert controller._holding_after([])(SLOT)
    assert not controller._holding_after([end])(SLOT)


def test_the_end_of_another_attempt_frees_nothing() -> None:
    controller = make_controller()
    take(controller, placed("n/a", SLOT))
    old = AttemptEnded("n/a", 0, Outcome(EndCause.EXITED, 0))
    assert controller._holding_after([old])(SLOT)


def test_a_slot_of_a_job_that_is_restored_in_the_same_step_is_held() -> None:
    controller = make_controller()
    told = JobRestored(placed("n/a", SLOT), {})
    assert not controller._holding_after([])(SLOT)
    assert controller._holding_after([told])(SLOT)


def test_what_cannot_be_told_ends_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would hold its lease for ever, and everything that happened would be lost to it."""

    async def scenario() -> None:
        controller = make_controller()
        monkeypatch.setattr(controller.gangs, "flush", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            controller._flush()
        assert controller.driver.broken.is_set()

    asyncio.run(scenario())


def test_a_copy_that_ends_before_it_is_complete_ends_the_controller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        controller = make_controller()
        monkeypatch.setattr(controller.lease, "acquire", at_once)
        monkeypatch.setattr(controller.lease, "hold", asyncio.Event().wait)
        monkeypatch.setattr(controller.api, "get", serve_nothing)
        monkeypatch.setattr(controller.pods, "list_all", fail)
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="a bug"):
                await controller.run(asyncio.Event())

    asyncio.run(scenario())


def fail() -> NoReturn:
    raise RuntimeError("a bug")


async def at_once() -> int:
    return 1


async def serve_nothing(path: str, params: object = None) -> bytes:
    if params == {"limit": 1}:
        raise ApiError(404, "NotFound", "not served")
    return await asyncio.Event().wait() and b""
