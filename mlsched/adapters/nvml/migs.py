"""The MIG instances of a GPU: every slot is asked, because slots may be empty in the middle."""

from __future__ import annotations

import re
from typing import Any

from mlsched.adapters.nvml.doors import Door, NotReportedError, derive, number
from mlsched.adapters.nvml.memories import read_memory
from mlsched.model.inventory import Memory, Mig, MigInstance, Reading, ReadingStatus

_EMPTY_CODES = (2, 6)
"""Invalid argument, not found: what drivers say of an empty slot."""

SLOTS_MAX = 64
"""More than any product has; bounds the loop against a driver that answers nonsense."""


def read_mig(door: Door, handle: Any) -> Mig:
    """Mode and instances of a GPU."""
    mode: Reading[Any] = door.call("nvmlDeviceGetMigMode", handle)
    is_enabled = derive(mode, lambda pair: number(pair[0]) == 1)
    is_enabled_next = derive(mode, lambda pair: number(pair[1]) == 1)
    if not is_enabled.value:
        slots = door.absent(ReadingStatus.UNSUPPORTED, "MIG mode is off") if mode.is_ok else mode
        return Mig(is_enabled, is_enabled_next, slots)
    count = door.call("nvmlDeviceGetMaxMigDeviceCount", handle, then=number)
    found = (read_instance(door, handle, slot) for slot in range(min(count.value or 0, SLOTS_MAX)))
    return Mig(is_enabled, is_enabled_next, count, tuple(one for one in found if one is not None))


def read_instance(door: Door, handle: Any, slot: int) -> MigInstance | None:
    """The instance in a slot; None when the slot is empty."""
    child: Reading[Any] = door.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
    if child.code in _EMPTY_CODES:
        return None
    if not child.is_ok:
        return _unread(slot, child)
    uuid = door.text("nvmlDeviceGetUUID", child.value)
    name = door.text("nvmlDeviceGetName", child.value)
    attributes: Reading[Any] = door.call("nvmlDeviceGetAttributes_v2", child.value)
    return MigInstance(
        uuid.value or f"slot-{slot}",
        slot,
        name,
        profile=derive(name, parse_profile),
        gpu_instance_id=door.call("nvmlDeviceGetGpuInstanceId", child.value, then=number),
        compute_instance_id=door.call("nvmlDeviceGetComputeInstanceId", child.value, then=number),
        multiprocessors=derive(attributes, lambda one: number(one.multiprocessorCount)),
        memory=read_memory(door, child.value, None),
    )


def _unread(slot: int, failed: Reading[Any]) -> MigInstance:
    memory = Memory("dedicated", failed, failed, failed, failed)
    return MigInstance(f"slot-{slot}", slot, failed, failed, failed, failed, failed, memory)


def parse_profile(name: str) -> str:
    """``1g.10gb`` from ``NVIDIA H100 80GB HBM3 MIG 1g.10gb``.

    Raises:
        NotReportedError: the name has no profile in it.
    """
    found = re.search(r"\b(?:\d+c\.)?\d+g\.\d+gb(?:\+\w+)*", name)
    if found is None:
        raise NotReportedError(f"no MIG profile in the name {name[:60]!r}")
    return found[0]
