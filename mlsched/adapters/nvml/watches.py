"""Events of the driver as an asynchronous stream, through a child process that waits for them.

The service keeps what comes in a list and hands it to `mlsched.core.inventory.with_events`. The
child is started again when it dies; events that fall in between are only in the kernel's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import msgspec

from mlsched.adapters.nvml.probe import EXIT_NO_LIBRARY
from mlsched.model.inventory import GpuEvent

RESTART_S_MIN = 1.0
RESTART_S_MAX = 60.0

_decode_event = msgspec.json.Decoder(GpuEvent).decode


async def watch_events(
    restart_s_min: float = RESTART_S_MIN, restart_s_max: float = RESTART_S_MAX
) -> AsyncIterator[GpuEvent]:
    """Each event once, in the order of the driver, until the iterator is closed.

    Ends by itself where there is no driver library. Close it with ``aclose`` (or cancel the task):
    that ends the child too.

    Args:
        restart_s_min: Pause before a child that died is started again; doubles with each death.
        restart_s_max: The longest pause.
    """
    pause_s = restart_s_min
    while True:
        child = await _start()
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                pause_s = restart_s_min
                with contextlib.suppress(msgspec.MsgspecError):
                    yield _decode_event(line)
            if await child.wait() == EXIT_NO_LIBRARY:
                return
        finally:
            await _end(child)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, restart_s_max)


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "mlsched.adapters.nvml.events",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), 1.0)
