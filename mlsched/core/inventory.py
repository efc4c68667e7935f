"""From what is known of the GPUs to what can be given to jobs: devices, in a fixed order.

The service calls `placeable_devices` after each reading. Pure: the same inventory and the same
moment give the same devices. Nothing here says who holds what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import fields, replace

from mlsched.core.health import EVENT_LIFE_MS, Health, Verdict, assess
from mlsched.model.inventory import (
    Gpu,
    GpuEvent,
    Identity,
    Inventory,
    MigInstance,
    Reading,
    ReadingStatus,
)
from mlsched.model.nodes import Device

EVENTS_ALIKE_MAX = 50
"""Events of one kind and code of one GPU: no rule of health counts as many."""

EVENTS_MAX = 1000
"""Events that an inventory keeps; the oldest go first."""


def placeable_devices(inventory: Inventory, now_ms: int) -> tuple[Device, ...]:
    """Everything that a job may hold: whole GPUs, or the instances of those in MIG mode.

    A GPU without a readable UUID, and one in MIG mode without instances, offers nothing. One whose
    MIG mode is about to change offers what it has as unhealthy. Order: PCI bus id, then slot.
    """
    return tuple(
        device
        for gpu in sorted(inventory.gpus, key=_position)
        if gpu.is_identified
        for device in _devices(gpu, assess(gpu, inventory.events, now_ms))
    )


def describe_shortage(inventory: Inventory, now_ms: int) -> str:
    """Why there is nothing to give although there are GPUs, or the inventory's own note."""
    if inventory.note or placeable_devices(inventory, now_ms) or not inventory.gpus:
        return inventory.note
    gpu = min(inventory.gpus, key=_position)
    more = f" (and {len(inventory.gpus) - 1} more)" if len(inventory.gpus) > 1 else ""
    return f"{gpu.uuid}{more}: {assess(gpu, inventory.events, now_ms).reason}"


def _position(gpu: Gpu) -> tuple[str, str]:
    return (gpu.identity.pci_bus_id.value or "~", gpu.uuid)


def _devices(gpu: Gpu, health: Health) -> Iterator[Device]:
    name = gpu.identity.name.value or "unknown GPU"
    reason = health.reason if health.verdict is not Verdict.PASS else ""
    if not (gpu.mig.is_enabled.value or gpu.mig.instances):
        size_bytes = gpu.memory.total_bytes.value or 0
        yield Device(gpu.uuid, name, size_bytes, "", "", health.schedulable, reason)
        return
    for instance in sorted(gpu.mig.instances, key=lambda one: one.slot):
        if instance.uuid.startswith("MIG-"):
            yield _mig_device(gpu, instance, name, health)


def _mig_device(gpu: Gpu, instance: MigInstance, name: str, health: Health) -> Device:
    profile = instance.profile.value or "unknown"
    known = instance.profile.is_ok and instance.memory.total_bytes.is_ok
    reason = health.reason if known or not health.schedulable else "its size cannot be read"
    size_bytes = instance.memory.total_bytes.value or 0
    healthy = health.schedulable and known
    return Device(instance.uuid, name, size_bytes, profile, gpu.uuid, healthy, reason)


def with_events(inventory: Inventory, events: Iterable[GpuEvent]) -> Inventory:
    """The inventory with events that were told meanwhile, oldest first, none twice."""
    known = {*inventory.events, *events}
    recent = [e for e in known if inventory.taken_at_ms - e.at_ms < EVENT_LIFE_MS]
    recent.sort(key=lambda event: (event.at_ms, event.uuid, event.kind, event.code))
    return replace(inventory, events=bound_events(recent))


def bound_events(events: Sequence[GpuEvent]) -> tuple[GpuEvent, ...]:
    """The newest of each kind of each GPU, of events in order: a noisy GPU hides nothing else."""
    counts: Counter[tuple[str, str, int]] = Counter()
    kept: list[GpuEvent] = []
    for event in reversed(events):
        key = (event.uuid, event.kind, event.code)
        counts[key] += 1
        if counts[key] <= EVENTS_ALIKE_MAX:
            kept.append(event)
    return tuple(reversed(kept[:EVENTS_MAX]))


def carry_over(previous: Inventory | None, current: Inventory) -> Inventory:
    """A reading in which something did not answer, completed by what was known before.

    What cannot change (identity, total memory, instances) stays with the time of its reading; all
    else has no value. So a driver that hangs, or a GPU that falls off the bus, does not make the
    devices of running jobs vanish: they stay, and nothing new is placed on them.
    """
    if previous is None or not previous.gpus:
        return current
    if current.note and not current.gpus:
        detail = f"not read: {current.note}"
        reading = Reading[Any](None, ReadingStatus.TRANSIENT, current.taken_at_ms, detail=detail)
        silent = tuple(_complete(gpu, _unread(gpu, reading)) for gpu in previous.gpus)
        return replace(current, gpus=silent)
    known = {gpu.uuid: gpu for gpu in previous.gpus}
    seen = {gpu.uuid for gpu in current.gpus}
    missing = {gpu.index: gpu for gpu in previous.gpus if gpu.uuid not in seen}
    gpus: list[Gpu] = []
    for gpu in current.gpus:
        before = known.get(gpu.uuid) or (None if gpu.is_identified else missing.get(gpu.index))
        gpus.append(_complete(before, gpu) if before else gpu)
    return replace(current, gpus=tuple(gpus))


_SILENT = (
    ReadingStatus.TRANSIENT,
    ReadingStatus.LOST,
    ReadingStatus.ERROR,
    ReadingStatus.NO_PERMISSION,
)


def _complete(before: Gpu, gpu: Gpu) -> Gpu:
    """A GPU as it was read now; where it was silent, what cannot change as it was before.

    A GPU without a UUID stands in the place of one that is missing: it is taken for that one.
    """
    kept = {
        field.name: getattr(before.identity, field.name)
        for field in fields(Identity)
        if getattr(gpu.identity, field.name).status in _SILENT
    }
    memory, mig = gpu.memory, gpu.mig
    if memory.total_bytes.status in _SILENT:
        memory = replace(memory, total_bytes=before.memory.total_bytes, kind=before.memory.kind)
    if mig.is_enabled.status in _SILENT:
        mig = before.mig
    elif mig.is_enabled.value and mig.slots.status in _SILENT:
        mig = replace(mig, instances=before.mig.instances)
    identity = replace(gpu.identity, **kept)
    return replace(gpu, uuid=before.uuid, identity=identity, memory=memory, mig=mig)


P = TypeVar("P", bound=Struct)


def _unread(part: P, reading: Reading[Any]) -> P:
    """The same record when nothing of it could be read."""
    changes: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Reading):
            changes[field.name] = reading
        elif isinstance(value, Struct):
            changes[field.name] = _unread(value, reading)
        elif isinstance(value, tuple):
            changes[field.name] = ()
    return replace(part, **changes)
