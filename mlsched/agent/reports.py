"""What an agent publishes, and which changes are worth a write. Pure.

A GPU has some 150 readings, and half of them change with every look: load, heat, power, memory in
use, counters of corrected errors. Those are published as they were, with their time, and never the
reason to publish. What placement and health follow from is: that is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from mlsched.adapters.kubernetes.gpunodes import GpuNodeStatus, GpuSummary
from mlsched.core.health import assess
from mlsched.core.inventory import bound_events
from mlsched.model.inventory import GpuEvent, Inventory

VOLATILE = frozenset(
    {
        "load",
        "environment",
        "used_bytes",
        "free_bytes",
        "ecc_corrected",
        "remapped_corrected",
        "pcie_replays",
        "pcie_generation",
        "calls",
        "taken_at_ms",
    }
)
"""Fields of an inventory that change without meaning anything by themselves; an idle GPU lowers its
PCIe generation. What they mean for health is in the verdict."""


def build_status(
    inventory: Inventory, holders: Mapping[str, str], boot_id: str, now_ms: int, note: str = ""
) -> GpuNodeStatus:
    """The status of a GPUNode.

    Args:
        inventory: The last reading, with the events that count.
        holders: Pods by the devices that they hold.
        boot_id: Of the kernel.
        now_ms: Wall clock.
        note: What else there is to say.
    """
    healthy = sum(assess(gpu, inventory.events, now_ms).schedulable for gpu in inventory.gpus)
    at = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    notes = [one for one in (inventory.note, note) if one]
    summary = GpuSummary(
        len(inventory.gpus), healthy, inventory.driver.value or "", "; ".join(notes)
    )
    return GpuNodeStatus(inventory, at, boot_id, summary, dict(holders))


def fingerprint(status: GpuNodeStatus, now_ms: int) -> bytes:
    """Equal for two statuses of which the second need not be published."""
    inventory = status.inventory
    if inventory is None:
        return b""
    verdicts = [
        (gpu.uuid, health.verdict, health.schedulable, health.reason)
        for gpu in inventory.gpus
        for health in [assess(gpu, inventory.events, now_ms)]
    ]
    steady = _steady(msgspec.to_builtins(inventory))
    holders = sorted(status.holders.items())
    return msgspec.json.encode((steady, verdicts, status.summary, holders))


def _steady(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_steady(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "at_ms" in value and "status" in value:
        return (_steady(value["value"]), value["status"])
    return {key: _steady(one) for key, one in value.items() if key not in VOLATILE}


def events_of(status: GpuNodeStatus | None, boot_id: str) -> tuple[GpuEvent, ...]:
    """What an earlier agent published of this boot of the machine."""
    if status is None or status.inventory is None or status.boot_id != boot_id:
        return ()
    return bound_events(status.inventory.events)
