"""Reads the node every few seconds, listens to its driver, and publishes what changed.

Crash-only: a new agent takes the driver's events from what the last one published, and everything
else from the machine. While the API server is away it goes on reading, and publishes the newest
state when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from mlsched.adapters.kubernetes.apis import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.gpunodes import GpuNode, GpuNodeStatus
from mlsched.adapters.kubernetes.holders import HoldersError
from mlsched.adapters.nvml import read_inventory_async, watch_events
from mlsched.agent.reports import build_status, events_of, fingerprint
from mlsched.core.inventory import bound_events, with_events
from mlsched.model.inventory import GpuEvent, Inventory

NO_GPU_PERIOD_FACTOR = 20
"""A machine without a driver is asked this many times less often: one may be installed later."""

NO_LIBRARY = 12
"""NVML's code for a machine without the driver's library. Source: nvml.h, nvmlReturn_t."""


class AgentSettings(Struct, frozen=True):
    """How often an agent does what."""

    period_s: float = 10.0
    """Between two readings."""
    deadline_s: float = 10.0
    """For one reading of all GPUs."""
    heartbeat_s: float = 300.0
    """The longest time without a publication: what is older than three of them is not believed."""
    retry_s_min: float = 0.5
    retry_s_max: float = 30.0
    """Between two tries to publish; doubles, with jitter."""


class Publisher(Protocol):
    """Where an agent publishes."""

    async def read(self) -> GpuNode | None:
        """What was published last."""
        ...

    async def publish(self, status: GpuNodeStatus) -> None:
        """Publish this."""
        ...


class Agent:
    """The agent of one node.

    Args:
        settings: How often it does what.
        publisher: Where to.
        read_holders: Who holds what; raises HoldersError.
        boot_id: Of the kernel.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        settings: AgentSettings,
        publisher: Publisher,
        read_holders: Callable[[], Awaitable[dict[str, str]]],
        boot_id: str,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._read_holders = read_holders
        self._boot_id = boot_id
        self._on_problem = on_problem
        self._inventory: Inventory | None = None
        self._events: tuple[GpuEvent, ...] = ()
        self._holders: dict[str, str] = {}
        self._note = ""
        self._published = b""
        self._changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Read, listen and publish until told to stop."""
        work = (self._begin(), self._listen())
        tasks = [asyncio.get_running_loop().create_task(one) for one in (*work, stop.wait())]
        waiting = set(tasks)
        try:
            while tasks[-1] in waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self) -> None:
        """Events come first: without them a broken GPU could be published as a healthy one."""
        await self._remember()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_again())
            group.create_task(self._publish_again())

    async def _remember(self) -> None:
        delay_s = self._settings.retry_s_min
        while True:
            try:
                found = await self._publisher.read()
            except (ApiError, NoAnswerError) as error:
                delay_s = await self._back_off(error, delay_s)
            else:
                known = events_of(found.status if found else None, self._boot_id)
                self._events = bound_events((*known, *self._events))
                return

    async def _read_again(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                previous, deadline_s = self._inventory, self._settings.deadline_s
                self._inventory = await read_inventory_async(deadline_s, previous)
            await self._look_at_holders()
            self._look()
            quiet = self._inventory is not None and self._inventory.driver.code == NO_LIBRARY
            await asyncio.sleep(self._settings.period_s * (NO_GPU_PERIOD_FACTOR if quiet else 1))

    async def _look_at_holders(self) -> None:
        """What is known stays while the kubelet does not tell: it may be restarting."""
        note = ""
        try:
            self._holders = await self._read_holders()
        except HoldersError as error:
            note = f"{error.message} {error.hint}".strip()
        if note != self._note:
            self._on_problem(note or "the kubelet tells again who holds which GPU")
        self._note = note

    async def _listen(self) -> None:
        while True:
            pause_s = self._settings.period_s * NO_GPU_PERIOD_FACTOR
            try:
                async for event in watch_events():
                    self._events = bound_events((*self._events, event))
                    self._look()
            except OSError:
                pause_s = self._settings.period_s
            await asyncio.sleep(pause_s)

    def _look(self) -> None:
        """Publish, if something changed that matters."""
        now_ms = _now_ms()
        status = self._build(now_ms)
        if status is not None and fingerprint(status, now_ms) != self._published:
            self._changed.set()

    def _build(self, now_ms: int) -> GpuNodeStatus | None:
        if self._inventory is None:
            return None
        inventory = with_events(self._inventory, self._events)
        return build_status(inventory, self._holders, self._boot_id, now_ms, self._note)

    async def _publish_again(self) -> None:
        delay_s = self._settings.retry_s_min
        await self._changed.wait()
        while True:
            self._changed.clear()
            try:
                await self._publish()
                delay_s = self._settings.retry_s_min
            except (ApiError, NoAnswerError) as error:
                delay_s = await self._back_off(error, delay_s)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._settings.heartbeat_s)

    async def _publish(self) -> None:
        now_ms = _now_ms()
        status = self._build(now_ms)
        if status is not None:
            await self._publisher.publish(status)
            self._published = fingerprint(status, now_ms)

    async def _back_off(self, error: ApiError | NoAnswerError, delay_s: float) -> float:
        after_s = error.retry_after_s or 0.0 if isinstance(error, ApiError) else 0.0
        # A proxy in maintenance asks for hours, and the node would not be believed for as long.
        after_s = min(after_s, self._settings.heartbeat_s)
        self._on_problem(error.message)
        await asyncio.sleep(max(after_s, delay_s * random.uniform(0.5, 1)))
        return min(2 * delay_s, self._settings.retry_s_max)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
