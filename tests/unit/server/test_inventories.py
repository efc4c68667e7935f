"""The machine's GPUs as the service tells them to the controller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlsched.config import NodeSettings
from mlsched.model.inventory import GpuEvent
from mlsched.server import inventories
from mlsched.server.gpu_events import EventRecord

XID = GpuEvent(1, "GPU-1", "xid", 79)


def test_a_driver_that_is_installed_later_is_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a driver the stream of events ends; the one that is begun later has the event."""
    turns = iter([(), (), (XID,)])

    async def watch() -> AsyncIterator[GpuEvent]:
        for event in next(turns):
            yield event

    monkeypatch.setattr(inventories, "watch_events", watch)
    record = EventRecord(tmp_path / "events.json")
    made = inventories.Inventories(NodeSettings(), 0.0, record, lambda event: None)
    with contextlib.suppress(RuntimeError):
        asyncio.run(made._listen())
    assert record.events == (XID,)


def test_a_machine_that_cannot_start_the_listener_now_is_listened_to_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([OSError("no process to spare"), XID])

    async def watch() -> AsyncIterator[GpuEvent]:
        turn = next(turns)
        if isinstance(turn, OSError):
            raise turn
        yield turn

    monkeypatch.setattr(inventories, "watch_events", watch)
    record = EventRecord(tmp_path / "events.json")
    made = inventories.Inventories(NodeSettings(), 0.0, record, lambda event: None)
    with contextlib.suppress(RuntimeError):
        asyncio.run(made._listen())
    assert record.events == (XID,)
