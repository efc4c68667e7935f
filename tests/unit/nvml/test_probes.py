"""Reading through a child process, when there is none to be had."""

from __future__ import annotations

import asyncio
import errno
from typing import NoReturn

import pytest

from mlsched.adapters.nvml import probes
from mlsched.core.inventory import placeable_devices
from tests.unit.inventories import inventory


def test_a_reader_that_cannot_be_started_makes_what_was_healthy_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*command: str, **more: object) -> NoReturn:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    before = inventory(2)
    assert [one.healthy for one in placeable_devices(before, 0)] == [True, True]
    found = asyncio.run(probes.read_inventory_async(10, before))
    assert "cannot be started: Resource temporarily unavailable" in found.note
    assert [one.healthy for one in placeable_devices(found, 0)] == [False, False]
    assert asyncio.run(probes.read_inventory_async(10)).gpus == ()
