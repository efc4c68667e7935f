"""The GPUs of a cluster beside its Node objects: GPUNodes, slices and claims, folded. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from mlsched.adapters.kubernetes.gpunodes import GpuNode, judge
from mlsched.adapters.kubernetes.nodes import NodeGpus
from mlsched.adapters.kubernetes.slices import (
    DRIVERS,
    Allocations,
    ResourceClaim,
    ResourceSlice,
    judge_devices,
    read_devices,
)


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
        self._gpu_nodes: dict[str, GpuNode] = {}
        self._slices_of: dict[str, dict[str, ResourceSlice]] = {}
        self._node_of: dict[str, str] = {}

    def observe_gpu_node(self, before: GpuNode | None, after: GpuNode | None) -> set[str]:
        """Take note of a change; the nodes that it is about."""
        if before is not None:
            self._gpu_nodes.pop(before.metadata.name, None)
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
        known = self._gpu_nodes.get(node)
        found, note = judge(known, now_ms) if known else ((), "")
        published = read_devices(self._slices_of.get(node, {}).values(), self._drivers)
        devices = judge_devices(published, {one.uuid: one for one in found})
        taken = frozenset(one.uuid for one in devices if self.allocations.holders(one.uuid))
        return NodeGpus(found, note, tuple(devices) if published else None, taken)
