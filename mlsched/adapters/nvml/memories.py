"""Memory of GPUs and MIG instances: version 2, else version 1, else that of the host."""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from mlsched.adapters.nvml.doors import Door, derive, number
from mlsched.adapters.nvml.hosts import Host
from mlsched.model.inventory import Memory, Reading, ReadingStatus

_OLDER = (ReadingStatus.MISSING_SYMBOL, ReadingStatus.UNSUPPORTED)


def read_memory(door: Door, handle: Any, host: Host | None) -> Memory:
    """Memory in bytes.

    Args:
        door: To the GPU.
        handle: Of the GPU or of a MIG instance.
        host: Has the memory when the GPU has none of its own; None for MIG instances.
    """
    version = getattr(door.nvml, "nvmlMemory_v2", None)
    if version is not None:
        info: Reading[Any] = door.call("nvmlDeviceGetMemoryInfo", handle, version)
        if info.status not in _OLDER:
            return _dedicated(info, derive(info, lambda one: number(one.reserved)))
    info = door.call("nvmlDeviceGetMemoryInfo", handle)
    reserved = door.absent(ReadingStatus.MISSING_SYMBOL, "part of used: the driver is too old")
    if info.status is ReadingStatus.UNSUPPORTED and host is not None:
        return _unified(door, host, info)
    return _dedicated(info, reserved if info.is_ok else info)


def _dedicated(info: Reading[Any], reserved: Reading[Any]) -> Memory:
    return Memory(
        "dedicated",
        total_bytes=derive(info, lambda one: number(one.total)),
        used_bytes=derive(info, lambda one: number(one.used)),
        free_bytes=derive(info, lambda one: number(one.free)),
        reserved_bytes=reserved,
    )


def _unified(door: Door, host: Host, info: Reading[Any]) -> Memory:
    found = re.search(r"^MemTotal:\s+(\d+) kB", host.read_text("/proc/meminfo") or "", re.MULTILINE)
    total: Reading[int] = info
    if found:
        size_bytes = int(found[1]) * 1024
        total = replace(info, value=size_bytes, status=ReadingStatus.OK, code=0, detail="")
    return Memory("unified", total, used_bytes=info, free_bytes=info, reserved_bytes=info)
