"""``python -m mlsched.adapters.nvml.events``: print each event of the driver as a line of JSON.

Runs as a child of `mlsched.adapters.nvml.watches` for as long as its standard input stays open.
Waiting is blocking, in the driver. A wait that fails ends the process, and condemns no GPU: a fresh
one builds a new event set, and finds a driver that was upgraded meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from mlsched.adapters.nvml.bindings import has_library
from mlsched.adapters.nvml.probe import EXIT_NO_LIBRARY

KINDS = {
    0x2: "dbe",
    0x8: "xid",
    0x100: "mig_change",
    0x200: "sbe_storm",
    0x400: "dram_retired",
    0x800: "dram_retirement_failed",
    0x1000: "poison",
    0x2000: "poison_fatal",
    0x4000: "gpu_unavailable",
    0x8000: "recovery_action",
}
"""Events worth keeping; clocks and power states change all the time. Source: nvml.h."""

WAIT_MS = 1000
_TIMEOUT = 10


def main() -> int:
    """Print events until standard input ends, or until a wait fails."""
    if not has_library():
        return EXIT_NO_LIBRARY
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from mlsched.adapters.nvml.bindings import load_binding
    from mlsched.adapters.nvml.doors import Door, SystemClock
    from mlsched.model.inventory import Reading

    door = Door(load_binding(), SystemClock())
    init: Reading[Any] = door.call("nvmlInitWithFlags", 0)
    if not init.is_ok:
        sys.stderr.write(f"NVML does not start: {init.detail}\n")
        return 1
    sys.stderr.write(f"no more events: {_watch(door)}\n")
    return 1


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _watch(door: Any) -> str:
    """Print events until a wait fails; returns why."""
    from mlsched.adapters.nvml.structs import handle_address

    event_set = door.call("nvmlEventSetCreate")
    if not event_set.is_ok:
        return str(event_set.detail)
    uuids = _register(door, event_set.value)
    if not uuids:
        return "no GPU has events"
    sys.stderr.write(f"watching {len(uuids)} GPUs\n")
    sys.stderr.flush()
    while True:
        door.answers.clear()
        told = door.call("nvmlEventSetWait_v2", event_set.value, WAIT_MS)
        if told.is_ok:
            uuid = uuids.get(handle_address(told.value.device), "")
            _print(door.clock.now_ms(), uuid, told.value)
        elif told.code != _TIMEOUT:
            return str(told.detail)


def _register(door: Any, event_set: Any) -> dict[int, str]:
    """Register every GPU that can be; returns their UUIDs by the address of the handle."""
    from mlsched.adapters.nvml.structs import handle_address

    wanted = sum(KINDS)
    uuids = {}
    for index in range(door.call("nvmlDeviceGetCount", then=int).value or 0):
        handle = door.call("nvmlDeviceGetHandleByIndex", index)
        if not handle.is_ok:
            continue
        uuid = door.text("nvmlDeviceGetUUID", handle.value)
        mask = door.call("nvmlDeviceGetSupportedEventTypes", handle.value, then=int)
        types = (mask.value or 0) & wanted
        if not (uuid.is_ok and types):
            continue
        if door.call("nvmlDeviceRegisterEvents", handle.value, types, event_set).is_ok:
            uuids[handle_address(handle.value)] = uuid.value
    return uuids


def _print(at_ms: int, uuid: str, told: Any) -> None:
    import msgspec

    from mlsched.model.inventory import GpuEvent

    kind = int(told.eventType)
    event = GpuEvent(
        at_ms,
        uuid,
        KINDS.get(kind, f"type_{kind:#x}"),
        code=int(told.eventData),
        gpu_instance_id=_instance(told.gpuInstanceId),
        compute_instance_id=_instance(told.computeInstanceId),
    )
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def _instance(number: int) -> int | None:
    return None if number == 0xFFFFFFFF else int(number)


if __name__ == "__main__":
    os._exit(main())
