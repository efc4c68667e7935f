"""Reads the inventory through a child process with a deadline, and survives whatever it does.

The service calls `read_inventory_async` every few seconds; commands without a service call
`read_inventory`. Both always return an inventory: a driver that is missing, hangs or crashes is a
note in it. Nothing here loads the driver into the calling process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import msgspec

from mlsched.adapters.nvml.bindings import LIBRARY
from mlsched.adapters.nvml.hosts import count_nvidia_devices
from mlsched.adapters.nvml.inventories import empty_inventory
from mlsched.adapters.nvml.probe import CALL_S, EXIT_NO_LIBRARY
from mlsched.core.inventory import carry_over
from mlsched.model.inventory import Inventory, ReadingStatus

DEADLINE_S = 10.0
MARGIN_S = 0.5
"""The child gives up this much earlier, so that it can still tell what it has."""

OUTPUT_BYTES_MAX = 1 << 24
_REAP_S = 1.0

_decode_inventory = msgspec.json.Decoder(Inventory).decode


def read_inventory(deadline_s: float = DEADLINE_S, previous: Inventory | None = None) -> Inventory:
    """All GPUs of this machine; for programs without an event loop. See `read_inventory_async`."""
    return asyncio.run(read_inventory_async(deadline_s, previous))


async def read_inventory_async(
    deadline_s: float = DEADLINE_S, previous: Inventory | None = None
) -> Inventory:
    """All GPUs of this machine, read by a child process.

    Costs a process of about 0.2 s; 0.05 s without a driver.

    Args:
        deadline_s: After this the child is killed.
        previous: The last reading; identities of GPUs that do not answer now are taken from it.
    """
    try:
        child = await _start(deadline_s)
    except OSError as error:
        why = f"the reader of the GPUs cannot be started: {error.strerror}"
        return carry_over(previous, _failed(why, []))
    steps: list[str] = []
    try:
        async with asyncio.timeout(deadline_s):
            output, _ = await asyncio.gather(_read_all(child), _follow(child, steps))
            code = await child.wait()
    except TimeoutError:
        found = _failed(f"the driver did not answer within {deadline_s:g} s", steps)
    else:
        found = _parse(code, output, steps)
    finally:
        await _end(child)
    return carry_over(previous, found)


async def _start(deadline_s: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_command(deadline_s),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=OUTPUT_BYTES_MAX,
        start_new_session=True,
    )


def _command(deadline_s: float) -> list[str]:
    """``-P`` keeps a file called ``pynvml.py`` in the working directory out of the way."""
    total_s = max(deadline_s - MARGIN_S, deadline_s / 2)
    call_s = min(CALL_S, total_s / 2)
    module = "mlsched.adapters.nvml.probe"
    return [sys.executable, "-P", "-m", module, f"{total_s:g}", f"{call_s:g}"]


async def _read_all(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    chunks, size = [], 0
    while size <= OUTPUT_BYTES_MAX and (chunk := await child.stdout.read(1 << 16)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


async def _follow(child: asyncio.subprocess.Process, steps: list[str]) -> None:
    assert child.stderr is not None
    async for line in child.stderr:
        steps.append(line.decode("utf-8", "replace").strip()[:200])
        del steps[:-20]


def _parse(code: int, output: bytes, steps: list[str]) -> Inventory:
    if code == EXIT_NO_LIBRARY:
        return _without_driver()
    if code < 0:
        return _failed(f"the driver crashed its reader (signal {-code})", steps)
    try:
        return _decode_inventory(output)
    except msgspec.MsgspecError:
        return _failed(f"the reader of the GPUs failed (exit code {code})", steps)


def _without_driver() -> Inventory:
    note = f"no NVIDIA driver library ({LIBRARY}) on this machine"
    devices = count_nvidia_devices()
    if devices:
        note += f", although it has {devices} NVIDIA device{'s' * (devices > 1)}"
    return empty_inventory(f"{note}: CPU jobs only", _now_ms(), ReadingStatus.UNSUPPORTED, 12)


def _failed(what: str, steps: list[str]) -> Inventory:
    where = f", last step: {steps[-1]}" if steps else ""
    return empty_inventory(f"{what}{where}", _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill the child; one that the kernel does not let go is left behind rather than waited for."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _REAP_S)
