"""Inventories of GPUs that are well, for tests that need no driver."""

from __future__ import annotations

from typing import Any, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from mlsched.adapters.kubernetes.gpunodes import ToldNode, encode_status
from mlsched.agent.reports import build_status
from mlsched.model.inventory import Gpu, Inventory, Reading, ReadingStatus

NOW_MS = 1_800_000_000_000
UNSUPPORTED: Reading[Any] = Reading(None, ReadingStatus.UNSUPPORTED, NOW_MS, code=3)


def ok(value: Any) -> Reading[Any]:
    """A reading with a value."""
    return Reading(value, ReadingStatus.OK, NOW_MS)


def filled(kind: Any, reading: Reading[Any] = UNSUPPORTED) -> Any:
    """A record whose readings are all the same."""
    made: dict[str, Any] = {}
    for field in fields(kind):
        if get_origin(field.type) is Reading:
            made[field.name] = reading
        elif isinstance(field.type, type) and issubclass(field.type, Struct):
            made[field.name] = filled(field.type, reading)
        elif get_origin(field.type) is tuple:
            made[field.name] = ()
        else:
            made[field.name] = 0 if field.type is int else "dedicated"
    return kind(**made)


def gpu(number: int = 0, model: str = "NVIDIA H100 80GB HBM3") -> Gpu:
    """A GPU that is well, called ``GPU-NUMBER``."""
    made: Gpu = replace(filled(Gpu), uuid=f"GPU-{number}", index=number)
    values: dict[str, dict[str, Any]] = {
        "identity": {"uuid": made.uuid, "name": model, "pci_bus_id": f"{number:08d}"},
        "memory": {"total_bytes": 80 << 30, "used_bytes": 0},
        "load": {"busy_percent": 0, "processes": ()},
        "environment": {"temperature_c": 40, "power_mw": 70_000},
        "faults": {"recovery_action": 0},
    }
    for part, changes in values.items():
        readings = {name: ok(value) for name, value in changes.items()}
        made = replace(made, **{part: replace(getattr(made, part), **readings)})
    return made


def inventory(gpus: int = 1, **more: Any) -> Inventory:
    """So many GPUs that are well."""
    version = ok("580")
    found = tuple(gpu(number) for number in range(gpus))
    return Inventory(version, version, version, "nvml", NOW_MS, found, **more)


def told(read: Inventory, at_ms: int = NOW_MS, name: str = "node-a", version: int = 1) -> ToldNode:
    """The GPUNode by which an agent tells of an inventory."""
    metadata = {"name": name, "resourceVersion": str(version)}
    status = encode_status(build_status(read, {}, "boot", at_ms))
    body = msgspec.json.encode({"metadata": metadata, "status": status})
    return msgspec.json.decode(body, type=ToldNode)
