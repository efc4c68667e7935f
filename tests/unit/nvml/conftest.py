"""GPUs made of readings, for tests that need no driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_origin

import pytest
from msgspec import Struct
from msgspec.structs import fields, replace

from mlsched.model.inventory import Gpu, Inventory, Mig, MigInstance, Reading, ReadingStatus

NOW_MS = 1_800_000_000_000


def _ok(value: Any) -> Reading[Any]:
    return Reading(value, ReadingStatus.OK, NOW_MS)


def _filled(kind: Any, reading: Reading[Any]) -> Any:
    """A record whose readings are all the same."""
    made = {}
    for field in fields(kind):
        if get_origin(field.type) is Reading:
            made[field.name] = reading
        elif isinstance(field.type, type) and issubclass(field.type, Struct):
            made[field.name] = _filled(field.type, reading)
        elif get_origin(field.type) is tuple:
            made[field.name] = ()
        else:
            made[field.name] = 0 if field.type is int else "dedicated"
    return kind(**made)


UNSUPPORTED: Reading[Any] = Reading(None, ReadingStatus.UNSUPPORTED, NOW_MS, code=3)


@pytest.fixture
def make_gpu() -> Callable[..., Gpu]:
    """Makes a GPU that is well; its number gives index, UUID and PCI address."""

    def make(number: int = 0, slots: tuple[int, ...] = (), **parts: dict[str, Any]) -> Gpu:
        uuid = f"GPU-{number:08x}-1111-2222-3333-444455556666"
        gpu = replace(_filled(Gpu, UNSUPPORTED), uuid=uuid, index=number)
        values: dict[str, dict[str, Any]] = {
            "identity": {
                "uuid": uuid,
                "name": "NVIDIA H100 80GB HBM3",
                "pci_bus_id": f"00000000:{number + 16:02X}:00.0",
            },
            "memory": {"total_bytes": 80 << 30, "used_bytes": 0},
            "load": {"busy_percent": 0},
            "environment": {"temperature_c": 40, "power_mw": 70_000},
            "faults": {"recovery_action": 0},
        }
        for part in {**values, **parts}:
            changes = {**values.get(part, {}), **parts.get(part, {})}
            made = {
                name: one if isinstance(one, Reading) or name == "kind" else _ok(one)
                for name, one in changes.items()
            }
            gpu = replace(gpu, **{part: replace(getattr(gpu, part), **made)})
        if slots:
            gpu = replace(gpu, mig=_mig(number, slots))
        return gpu

    return make


def _mig(number: int, slots: tuple[int, ...]) -> Mig:
    instances = tuple(
        replace(
            _filled(MigInstance, UNSUPPORTED),
            uuid=f"MIG-{number:08x}-{slot:04x}-2222-3333-444455556666",
            slot=slot,
            profile=_ok("1g.10gb"),
            memory=replace(
                _filled(MigInstance, UNSUPPORTED).memory,
                total_bytes=_ok(10 << 30),
                used_bytes=_ok(1 << 30),
            ),
        )
        for slot in slots
    )
    return Mig(_ok(True), _ok(True), _ok(7), instances)


@pytest.fixture
def make_inventory() -> Callable[..., Inventory]:
    """Makes an inventory of GPUs, taken now."""

    def make(*gpus: Gpu, note: str = "", **more: Any) -> Inventory:
        version = _ok("580.105.08")
        return Inventory(version, version, version, "nvml", NOW_MS, gpus, note=note, **more)

    return make


@pytest.fixture
def lost() -> Reading[Any]:
    """A reading of a GPU that is lost."""
    return Reading(None, ReadingStatus.LOST, NOW_MS, code=15, detail="GPU is lost")


@pytest.fixture
def make_lost(lost: Reading[Any]) -> Callable[[int], Gpu]:
    """Makes a GPU that tells nothing, not even its UUID."""

    def make(index: int) -> Gpu:
        return replace(_filled(Gpu, lost), uuid=f"index-{index}", index=index)

    return make
