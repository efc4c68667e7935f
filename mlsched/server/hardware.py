"""What is known of the GPUs of a cluster beside its Node objects.

GPUNodes of the node agents, and ResourceSlices and ResourceClaims where DRA drivers publish GPUs.
Each is optional: a cluster that does not serve it, or does not let us read it, goes without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mlsched.adapters.kubernetes.apis import Api
from mlsched.adapters.kubernetes.claims import Allocations, Claims
from mlsched.adapters.kubernetes.gpunodes import GPU_NODES, STALE_S, GpuNode, judge
from mlsched.adapters.kubernetes.nodes import NodeGpus
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.adapters.kubernetes.slices import (
    DRIVERS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    ResourceClaim,
    ResourceSlice,
    judge_devices,
    read_devices,
)


class Hardware:
    """The GPUs of all nodes.

    Args:
        api: Where they are read.
        touch: Told the name of a node of which something changed.
        drivers: DRA drivers whose devices are GPUs.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        api: Api,
        touch: Callable[[str], None],
        drivers: Sequence[str] = DRIVERS,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._touch = touch
        self._drivers = frozenset(drivers)
        self._on_problem = on_problem
        self.gpu_nodes = Reflector(api, GPU_NODES, GpuNode, self._observe_gpu_node)
        self.slices = Reflector(api, RESOURCE_SLICES, ResourceSlice, self._observe_slice)
        self.claims = Reflector(api, RESOURCE_CLAIMS, ResourceClaim, self._observe_claim)
        self.allocations = Allocations()
        self._slices_of: dict[str, dict[str, ResourceSlice]] = {}
        self._node_of: dict[str, str] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def reflectors(self) -> list[Reflector[Any]]:
        """Those of what this cluster serves and lets us read; slices only with claims."""
        found: list[Reflector[Any]] = []
        if await self._is_served(GPU_NODES):
            found.append(self.gpu_nodes)
        if await self._is_served(RESOURCE_SLICES) and await self._is_served(RESOURCE_CLAIMS):
            found += [self.slices, self.claims]
        return found

    async def _is_served(self, path: str) -> bool:
        return await insist(lambda: self._api.serves(path), self._on_problem)

    def make_claims(self, classes: Iterable[tuple[str, str]] = ()) -> Claims:
        """What gives published devices to pods.

        Args:
            classes: Driver and name of its DeviceClass, where they differ.
        """
        return Claims(self._api, self.claims, self.allocations, dict(classes), self._on_problem)

    def of(self, node: str) -> NodeGpus:
        """What is known of one node, judged now."""
        known = self.gpu_nodes.objects.get(node)
        found, note = judge(known, time.time_ns() // 1_000_000) if known else ((), "")
        published = read_devices(self._slices_of.get(node, {}).values(), self._drivers)
        devices = judge_devices(published, {one.uuid: one for one in found})
        taken = frozenset(one.uuid for one in devices if self.allocations.holders(one.uuid))
        return NodeGpus(found, note, tuple(devices) if published else None, taken)

    def close(self) -> None:
        """Stop all timers."""
        for timer in self._timers.values():
            timer.cancel()

    def _observe_gpu_node(self, before: GpuNode | None, after: GpuNode | None) -> None:
        """A node whose agent falls silent is looked at again when that counts."""
        one = after or before
        if one is None:
            return
        name = one.metadata.name
        if name in self._timers:
            self._timers.pop(name).cancel()
        if after is not None:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(STALE_S + 1, self._touch, name)
        self._touch(name)

    def _observe_slice(self, before: ResourceSlice | None, after: ResourceSlice | None) -> None:
        for one in (before, after):
            if one is None:
                continue
            slices = self._slices_of.setdefault(one.spec.node_name, {})
            if one is after:
                slices[one.metadata.key] = one
                self._node_of.update((name, one.spec.node_name) for name in one.devices)
            else:
                slices.pop(one.metadata.key, None)
        for one in (before, after):
            if one is not None and one.spec.node_name:
                self._touch(one.spec.node_name)

    def _observe_claim(self, before: ResourceClaim | None, after: ResourceClaim | None) -> None:
        changed = self.allocations.observe(before, after)
        for node in {self._node_of[name] for name in changed if name in self._node_of}:
            self._touch(node)
