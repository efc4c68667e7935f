"""The GPUs of a cluster beside its Node objects: GPUNodes, slices and claims, folded. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from mlsched.adapters.kubernetes.gpunodes import STALE_S, ToldNode, age_s_of, read_told
from mlsched.adapters.kubernetes.nodes import NodeGpus
from mlsched.adapters.kubernetes.slices import (
    DRIVERS,
    NAMELESS,
    Allocations,
    ResourceClaim,
    ResourceSlice,
    judge_devices,
    read_devices,
)
from mlsched.core.inventory import placeable_devices
from mlsched.model.inventory import Inventory
from mlsched.model.nodes import Device

JUDGED_MS = 30_000
"""How long a judgement stands without a new reading: some evidence expires after minutes."""


class GpuView:
    """What node agents and DRA drivers tell, by node.

    Args:
        drivers: DRA drivers whose devices are GPUs.

    Attributes:
        allocations: Which claims hold which devices.
    """

    def __init__(self, drivers: Sequence[str] = DRIVERS) -> None:
        self.allocations = Allocations()
        self._drivers = frozenset(drivers)
        self._gpu_nodes: dict[str, ToldNode] = {}
        self._judged: dict[str, _Judged] = {}
        self._slices_of: dict[str, dict[str, ResourceSlice]] = {}
        self._node_of: dict[str, str] = {}

    def observe_gpu_node(self, before: ToldNode | None, after: ToldNode | None) -> set[str]:
        """Take note of a change; the nodes that it is about."""
        if before is not None:
            self._gpu_nodes.pop(before.metadata.name, None)
            self._judged.pop(before.metadata.name, None)
        if after is not None:
            self._gpu_nodes[after.metadata.name] = after
        return {one.metadata.name for one in (before, after) if one is not None}

    def observe_slice(self, before: ResourceSlice | None, after: ResourceSlice | None) -> set[str]:
        """Take note of a change; the nodes that it is about."""
        if before is not None:
            self._slices_of.get(before.spec.node_name, {}).pop(before.metadata.key, None)
        if after is not None:
            node = after.spec.node_name
            self._slices_of.setdefault(node, {})[after.metadata.key] = after
            self._node_of.update((name, node) for name in after.devices)
        return {one.spec.node_name for one in (before, after) if one is not None} - {""}

    def observe_claim(self, before: ResourceClaim | None, after: ResourceClaim | None) -> set[str]:
        """Take note of a change; the nodes that it is about."""
        changed = self.allocations.observe(before, after)
        return {self._node_of[name] for name in changed if name in self._node_of}

    def of(self, node: str, now_ms: int) -> NodeGpus:
        """What is known of one node, judged at a moment.

        Raises:
            ValueError: a capacity of a device is none.
        """
        found, note = self._judge(node, now_ms)
        slices = self._slices_of.get(node, {}).values()
        published = read_devices(slices, self._drivers)
        devices = judge_devices(published, {one.uuid: one for one in found})
        taken = frozenset(one.uuid for one in devices if self.allocations.holders(one.uuid))
        is_driven = any(one.spec.driver in self._drivers for one in slices)
        return NodeGpus(found, note, tuple(devices) if is_driven else None, taken)

    def _judge(self, name: str, now_ms: int) -> tuple[tuple[Device, ...], str]:
        """The devices that an agent told of, or none and why it is not believed."""
        node = self._gpu_nodes.get(name)
        if node is None:
            return (), ""
        age_s = age_s_of(node, now_ms)
        if age_s > STALE_S:
            return (), f"its node agent was last heard {age_s // 60} minutes ago"
        judged = self._judged.get(name)
        if judged is None or now_ms >= judged.until_ms:
            judged = self._judged[name] = _judge_inventory(read_told(node), now_ms)
        return judged.devices, judged.note


class _Judged(Struct, frozen=True):
    """What was found of one node; nodes are looked at with each change of a pod."""

    devices: tuple[Device, ...]
    note: str
    until_ms: int


def _judge_inventory(inventory: Inventory | None, now_ms: int) -> _Judged:
    until_ms = now_ms + JUDGED_MS
    if inventory is None:
        return _Judged((), "", until_ms)
    if not inventory.gpus:
        note = f"its node agent finds no GPU: {inventory.note}" if inventory.note else ""
        return _Judged((), note, until_ms)
    devices = placeable_devices(inventory, now_ms)
    if not any(one.profile for one in devices):
        devices += _nameless(inventory)
    return _Judged(devices, inventory.note, until_ms)


def _nameless(inventory: Inventory) -> tuple[Device, ...]:
    """GPUs that do not even tell their UUID: lost before the agent ever read them, and broken."""
    reason = "it does not tell its UUID"
    return tuple(
        Device(f"{NAMELESS}{gpu.index}", "unknown GPU", 0, healthy=False, health_reason=reason)
        for gpu in inventory.gpus
        if not gpu.is_identified
    )
