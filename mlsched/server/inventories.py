"""The inventory of this machine over time: readings every few seconds, events as they come.

A GPU that does not answer stays in the inventory with what was known of it; an event counts from
the moment it comes, without waiting for the next reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from msgspec.structs import replace

from mlsched.adapters.local.machine import observe_machine
from mlsched.adapters.nvml import read_inventory_async, watch_events
from mlsched.config import NodeSettings
from mlsched.core.inventory import describe_shortage, placeable_devices, with_events
from mlsched.model.events import NodeObserved
from mlsched.model.inventory import Inventory
from mlsched.model.nodes import Node
from mlsched.server.gpu_events import EventRecord

DEADLINE_S = 10.0
"""For one reading of all GPUs; a driver that hangs longer is reported, and read again later."""

NO_GPU_PERIOD_FACTOR = 20
"""A machine without a driver is asked this many times less often: one may be installed later."""

NO_LIBRARY = 12
"""NVML's code for a machine without the driver's library. Source: nvml.h, nvmlReturn_t."""


class Inventories:
    """Reads the machine and tells the controller what changed.

    Args:
        period_s: Between two readings.
        record: What the driver told before.
        post: Takes the event `NodeObserved`.
    """

    def __init__(
        self,
        settings: NodeSettings,
        period_s: float,
        record: EventRecord,
        post: Callable[[NodeObserved], None],
    ) -> None:
        self._settings = settings
        self._period_s = period_s
        self._post = post
        self._reading = asyncio.Lock()
        self._machine: Node | None = None
        self._latest: Inventory | None = None
        self._record = record

    async def read(self) -> Inventory:
        """Read all GPUs now and tell the controller; one reading at a time."""
        async with self._reading:
            self._latest = await read_inventory_async(DEADLINE_S, self._latest)
        return self._tell(self._latest)

    def _tell(self, latest: Inventory) -> Inventory:
        inventory = with_events(latest, self._record.events)
        now_ms = time.time_ns() // 1_000_000
        note = describe_shortage(inventory, now_ms)
        devices = placeable_devices(inventory, now_ms)
        self._post(NodeObserved(replace(self._observe(), devices=devices, gpu_note=note)))
        return inventory

    def _observe(self) -> Node:
        if self._machine is None:
            found = observe_machine()
            self._machine = replace(
                found,
                milli_cpus=self._settings.milli_cpus or found.milli_cpus,
                memory_bytes=self._settings.memory_bytes or found.memory_bytes,
            )
        return self._machine

    async def run(self) -> None:
        """Read and listen for ever; the first reading is the caller's."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._read_again())

    async def _read_again(self) -> None:
        while True:
            quiet = self._latest is not None and self._latest.driver.code == NO_LIBRARY
            await asyncio.sleep(self._period_s * (NO_GPU_PERIOD_FACTOR if quiet else 1))
            with contextlib.suppress(OSError):
                await self.read()

    async def _listen(self) -> None:
        while True:
            pause_s = self._period_s * NO_GPU_PERIOD_FACTOR
            try:
                async for event in watch_events():
                    self._record.add(event)
                    if self._latest is not None:
                        self._tell(self._latest)
            except OSError:
                pause_s = self._period_s
            await asyncio.sleep(pause_s)
