"""GPUs as a table, and as plain values with everything that was read.

A cell without a value says why: ``-`` the product or driver does not have it, ``?`` it could not be
read now, ``denied``, ``lost``. Never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from mlsched.cli.render.tables import cut, format_table
from mlsched.cli.render.texts import one_line
from mlsched.core.health import Health, Verdict, assess
from mlsched.model.inventory import Gpu, Inventory, Memory, MigInstance, Reading, ReadingStatus

R = TypeVar("R")

_GIB = 1 << 30
_PREFIX_MIN = 12
"""``GPU-1a2b3c4d``: CUDA_VISIBLE_DEVICES takes the beginning of a UUID too."""

_MODEL_COLUMN, _MODEL_MAX = 2, 20
"""Where the model stands when the table is not wide, and how much of it is shown."""

_WORDS = {
    ReadingStatus.UNSUPPORTED: "-",
    ReadingStatus.MISSING_SYMBOL: "-",
    ReadingStatus.NO_PERMISSION: "denied",
    ReadingStatus.LOST: "lost",
}


_INVENTORY = msgspec.json.Decoder(Inventory)


def from_plain(plain: Any) -> Inventory:
    """The inventory that a service told as plain values."""
    return msgspec.convert(plain, _INVENTORY.type)


def to_plain(inventory: Inventory, holders: Mapping[str, str]) -> dict[str, Any]:
    """Every reading with value, status and time; each GPU with its health and who holds it."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(inventory))
    for gpu, made in zip(inventory.gpus, plain["gpus"], strict=True):
        health = _judge(inventory, gpu)
        made["health"] = msgspec.json.decode(msgspec.json.encode(health))
        made["holder"] = holders.get(gpu.uuid)
        for instance in made["mig"]["instances"]:
            instance["holder"] = holders.get(instance["uuid"])
    return plain


def list_uuids(inventory: Inventory) -> list[str]:
    """UUIDs that a job can be given: of whole GPUs, or of the instances of those in MIG mode."""
    found = []
    for gpu in inventory.gpus:
        found += [one.uuid for one in gpu.mig.instances] or [gpu.uuid] * gpu.is_identified
    return found


def format_gpus(
    inventory: Inventory,
    holders: Mapping[str, str],
    *,
    wide: bool = False,
    layout: Mapping[str, Any] | None = None,
) -> str:
    """The table; below it why GPUs are not well, and what is wrong with all of them.

    Args:
        inventory: What was read.
        holders: Names of jobs by the UUID that they hold.
        wide: Whole UUIDs, PCI bus ids and power.
        layout: ``width``, ``color`` and ``heads`` of `format_table`.
    """
    if not inventory.gpus:
        return one_line(inventory.note)
    keys = [gpu.uuid for gpu in inventory.gpus]
    keys += [one.uuid for gpu in inventory.gpus for one in gpu.mig.instances]
    size = max(map(len, keys)) if wide else _unique_length(keys)
    rows = []
    reasons: dict[str, list[str]] = {}
    for gpu in inventory.gpus:
        health = _judge(inventory, gpu)
        rows.append(_gpu_row(gpu, health, holders, size))
        rows += [_instance_row(gpu, one, holders, size) for one in gpu.mig.instances]
        if health.reason:
            reasons.setdefault(format_health(health), []).append(str(gpu.index))
    headers = ["GPU", "UUID", "PCI", "MODEL", "MEMORY", "UTIL", "TEMP", "POWER", "HOLDER", "HEALTH"]
    if not wide:
        hidden = [headers.index("PCI"), headers.index("POWER")]
        headers = [one for n, one in enumerate(headers) if n not in hidden]
        rows = [[one for n, one in enumerate(row) if n not in hidden] for row in rows]
        for row in rows:
            row[_MODEL_COLUMN] = cut(row[_MODEL_COLUMN], _MODEL_MAX)
    told = [f"GPU {', '.join(indices)} {one_line(why)}" for why, indices in reasons.items()]
    table = format_table(headers, rows, **(layout or {}))
    return "\n".join([table, *told, *filter(None, [one_line(inventory.note)])])


def _judge(inventory: Inventory, gpu: Gpu) -> Health:
    return assess(gpu, inventory.events, inventory.taken_at_ms)


def _unique_length(keys: list[str]) -> int:
    """The shortest beginning, at a group's end, that tells all keys apart."""
    lengths = (_PREFIX_MIN, 17, 22, 27)
    distinct = len(set(keys))
    return next((n for n in lengths if len({key[:n] for key in keys}) == distinct), 40)


def _cell(reading: Reading[R], form: Callable[[R], str]) -> str:
    if reading.value is not None:
        return form(reading.value)
    return _WORDS.get(reading.status, "?")


def _gpu_row(gpu: Gpu, health: Health, holders: Mapping[str, str], size: int) -> list[str]:
    return [
        str(gpu.index),
        gpu.uuid[:size],
        _cell(gpu.identity.pci_bus_id, str),
        _cell(gpu.identity.name, _short_name),
        format_memory(gpu.memory),
        _cell(gpu.load.busy_percent, lambda value: f"{value}%"),
        _cell(gpu.environment.temperature_c, lambda value: f"{value}C"),
        _cell(gpu.environment.power_mw, lambda value: f"{value / 1000:.0f}W"),
        holders.get(gpu.uuid, "-"),
        str(health.verdict),
    ]


def _instance_row(
    gpu: Gpu, instance: MigInstance, holders: Mapping[str, str], size: int
) -> list[str]:
    """An instance has no load, heat, power or health of its own."""
    return [
        f"{gpu.index}/{instance.slot}",
        instance.uuid[:size],
        "",
        f"MIG {_cell(instance.profile, str)}",
        format_memory(instance.memory),
        "-",
        "-",
        "-",
        holders.get(instance.uuid, "-"),
        "",
    ]


def _short_name(name: str) -> str:
    return name.removeprefix("NVIDIA ")


def format_memory(memory: Memory) -> str:
    """``12.5/79.6G``, or ``119.6G shared`` where GPU and host have one memory."""
    total = _cell(memory.total_bytes, lambda value: f"{value / _GIB:.1f}G")
    if memory.kind == "unified":
        return f"{total} shared"
    used = _cell(memory.used_bytes, lambda value: f"{value / _GIB:.1f}")
    return total if used == total else f"{used}/{total}"


def format_health(health: Health) -> str:
    """The verdict, and what it comes from."""
    kept_away = "" if health.schedulable or health.verdict is Verdict.CRITICAL else ", no new jobs"
    reason = f": {health.reason}" if health.reason else ""
    return f"{health.verdict}{kept_away}{reason}"
