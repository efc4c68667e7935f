"""The inventory of this machine over time: read at the start, then every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from msgspec.structs import replace

from mlsched.adapters.local.machine import observe_machine
from mlsched.adapters.nvml import read_inventory_async
from mlsched.config import NodeSettings
from mlsched.core.inventory import placeable_devices
from mlsched.model.events import NodeObserved
from mlsched.model.inventory import Inventory
from mlsched.model.nodes import Node

DEADLINE_S = 10.0
"""For one reading of all GPUs; a driver that hangs longer is reported, and read again later."""

NO_GPU_PERIOD_FACTOR = 20
"""A machine without a driver is asked this many times less often: one may be installed later."""


class Inventories:
    """Reads the machine and tells the controller what changed.

    Args:
        post: Takes the event `NodeObserved`.
        period_s: Between two readings.
    """

    def __init__(
        self, settings: NodeSettings, period_s: float, post: Callable[[NodeObserved], None]
    ) -> None:
        self._settings = settings
        self._period_s = period_s
        self._post = post
        self._reading = asyncio.Lock()
        self._machine: Node | None = None

    async def read(self) -> Inventory:
        """Read all GPUs now and tell the controller; one reading at a time."""
        async with self._reading:
            inventory = await read_inventory_async(deadline_s=DEADLINE_S)
        devices = placeable_devices(inventory, time.time_ns() // 1_000_000)
        machine = self._observe()
        self._post(NodeObserved(replace(machine, devices=devices, gpu_note=inventory.note)))
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
        """Read for ever; the first reading is the caller's."""
        quiet = False
        while True:
            await asyncio.sleep(self._period_s * (NO_GPU_PERIOD_FACTOR if quiet else 1))
            with contextlib.suppress(OSError):
                inventory = await self.read()
                quiet = not inventory.gpus
