"""Follows what is known of the GPUs of a cluster beside its Node objects.

GPUNodes of the node agents, and ResourceSlices and ResourceClaims where DRA drivers publish GPUs.
Each is optional: a cluster that does not serve it, or does not let us read it, goes without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mlsched.adapters.kubernetes.apis import Api
from mlsched.adapters.kubernetes.claims import Claims
from mlsched.adapters.kubernetes.gpunodes import GPU_NODES, STALE_S, ToldNode
from mlsched.adapters.kubernetes.gpuviews import GpuView
from mlsched.adapters.kubernetes.nodes import NodeGpus
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.adapters.kubernetes.slices import (
    DRIVERS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    ResourceClaim,
    ResourceSlice,
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
        self._on_problem = on_problem
        self._view = GpuView(drivers)
        self.gpu_nodes = Reflector(
            api, GPU_NODES, ToldNode, self._observe_gpu_node, on_problem=on_problem
        )
        self.slices = Reflector(
            api,
            RESOURCE_SLICES,
            ResourceSlice,
            lambda before, after: self._touch_all(self._view.observe_slice(before, after)),
            on_problem=on_problem,
        )
        self.claims = Reflector(
            api,
            RESOURCE_CLAIMS,
            ResourceClaim,
            lambda before, after: self._touch_all(self._view.observe_claim(before, after)),
            on_problem=on_problem,
        )
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
        is_served = await insist(lambda: self._api.serves(path), self._on_problem)
        if not is_served:
            self._on_problem(f"goes on without {path}: it does not exist, or may not be read")
        return is_served

    def make_claims(self, classes: Iterable[tuple[str, str]] = ()) -> Claims:
        """What gives published devices to pods.

        Args:
            classes: Driver and name of its DeviceClass, where they differ.
        """
        allocations = self._view.allocations
        return Claims(self._api, self.claims, allocations, dict(classes), self._on_problem)

    def of(self, node: str) -> NodeGpus:
        """What is known of one node, judged now.

        Raises:
            ValueError: a capacity of a device is none.
        """
        return self._view.of(node, time.time_ns() // 1_000_000)

    def close(self) -> None:
        """Stop all timers."""
        for timer in self._timers.values():
            timer.cancel()

    def _observe_gpu_node(self, before: ToldNode | None, after: ToldNode | None) -> None:
        """A node whose agent falls silent is looked at again when that counts."""
        names = self._view.observe_gpu_node(before, after)
        for name in names & self._timers.keys():
            self._timers.pop(name).cancel()
        if after is not None:
            loop = asyncio.get_running_loop()
            name = after.metadata.name
            self._timers[name] = loop.call_later(STALE_S + 1, self._touch, name)
        self._touch_all(names)

    def _touch_all(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self._touch(node)
