"""Processes that use a GPU, by the newest list that the driver has."""

from __future__ import annotations

from typing import Any, Literal

from msgspec.structs import replace

from mlsched.adapters.nvml.doors import Door, NotReportedError, number
from mlsched.model.inventory import Process, Reading, ReadingStatus

PID_MAX = 1 << 22
"""Linux has no larger pid; larger ones come from a structure of another version."""

_KINDS: tuple[tuple[str, Literal["compute", "graphics", "mps"]], ...] = (
    ("Compute", "compute"),
    ("Graphics", "graphics"),
    ("MPSCompute", "mps"),
)


def read_processes(door: Door, handle: Any) -> Reading[tuple[Process, ...]]:
    """All processes of a GPU by pid; no value unless the list of compute processes can be read."""
    lists = [_read_kind(door, handle, name, kind) for name, kind in _KINDS]
    if not lists[0].is_ok:
        return lists[0]
    found = [process for one in lists if one.is_ok for process in one.value or ()]
    found.sort(key=lambda one: (one.pid, one.kind))
    return replace(lists[0], value=tuple(found), took_us=sum(one.took_us for one in lists))


def _read_kind(
    door: Door, handle: Any, name: str, kind: Literal["compute", "graphics", "mps"]
) -> Reading[tuple[Process, ...]]:
    def then(entries: Any) -> tuple[Process, ...]:
        return tuple(_process(entry, kind) for entry in entries)

    reading = door.call(f"nvmlDeviceGet{name}RunningProcesses_v3", handle, then=then)
    if reading.status is ReadingStatus.MISSING_SYMBOL:
        reading = door.call(f"nvmlDeviceGet{name}RunningProcesses_v2", handle, then=then)
    return reading


def _process(entry: Any, kind: Literal["compute", "graphics", "mps"]) -> Process:
    pid = int(entry.pid)
    if not 0 < pid <= PID_MAX:
        raise ValueError(f"pid {pid} cannot be: the list is of another version")
    return Process(
        pid=pid,
        kind=kind,
        used_bytes=_optional(entry.usedGpuMemory),
        gpu_instance_id=_optional(getattr(entry, "gpuInstanceId", None)),
        compute_instance_id=_optional(getattr(entry, "computeInstanceId", None)),
    )


def _optional(value: Any) -> int | None:
    try:
        return number(value)
    except NotReportedError:
        return None
