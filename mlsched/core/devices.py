"""Which devices a request may take, and which of them it takes first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from mlsched.model.nodes import Device
from mlsched.model.resources import GroupNeed


def matches(device: Device, need: GroupNeed) -> bool:
    """Whether a device is of the kind that was asked for; its health does not matter here.

    A whole GPU is never replaced by a MIG instance or the other way round.
    """
    if device.is_mig != need.mig or device.memory_bytes < need.gpu_memory_min_bytes:
        return False
    if not need.gpu_model:
        return True
    if need.mig:
        return device.profile.lower() == need.gpu_model.lower()
    return matches_model(device.model, need.gpu_model)


@lru_cache(maxsize=4096)
def matches_model(model: str, asked: str) -> bool:
    """Whether ``NVIDIA H100 80GB HBM3`` is what ``h100``, ``H100-80GB`` or ``a100|h100`` ask."""
    words = set(_words(model))
    return any(set(_words(one)) <= words for one in asked.split("|") if _words(one))


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def choose(
    free: Sequence[Device], need: GroupNeed, *, heeds_health: bool = True
) -> tuple[Device, ...] | None:
    """The devices that a group takes of those that are free on a node, or None.

    One model for the whole group where that is possible, the one with the least memory that will
    do, so that larger GPUs stay free for those who need them. Devices keep the node's order.
    """
    if need.gpus == 0:
        return ()
    fitting = [d for d in free if (d.healthy or not heeds_health) and matches(d, need)]
    if len(fitting) < need.gpus:
        return None
    by_kind = group_by_kind(fitting)
    whole = [kind for kind, devices in by_kind.items() if len(devices) >= need.gpus]
    if whole:
        best = min(whole, key=lambda kind: (by_kind[kind][0].memory_bytes, kind))
        return tuple(by_kind[best][: need.gpus])
    return tuple(sorted(fitting, key=lambda d: d.memory_bytes)[: need.gpus])


def group_by_kind(devices: Iterable[Device]) -> dict[str, list[Device]]:
    """Devices by model and MIG profile, in the order in which each kind is first met."""
    kinds: dict[str, list[Device]] = {}
    for device in devices:
        kinds.setdefault(kind_of(device), []).append(device)
    return kinds


def kind_of(device: Device) -> str:
    """``NVIDIA H100 80GB HBM3`` or ``NVIDIA H100 80GB HBM3 MIG 1g.10gb``."""
    if device.profile and device.profile not in device.model:
        return f"{device.model} MIG {device.profile}"
    return device.model


def describe(devices: Iterable[Device]) -> str:
    """``2 x NVIDIA H100 80GB HBM3, 1 x Tesla T4``; ``no GPU`` when there is none."""
    kinds = group_by_kind(devices)
    return ", ".join(f"{len(found)} x {kind}" for kind, found in kinds.items()) or "no GPU"
