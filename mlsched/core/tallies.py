"""What there is for a need on all nodes together, and what of it is free: sums for sentences.

Nodes that take no jobs now and devices that are not healthy count as being there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlsched.core.devices import matches
from mlsched.core.filters import WELL, admits
from mlsched.model.nodes import Device, Node
from mlsched.model.resources import GroupNeed

if TYPE_CHECKING:
    from mlsched.core.ledger import Ledger


class Amounts:
    """Sums over nodes that would do."""

    __slots__ = (
        "cpus",
        "cpus_free",
        "gpus",
        "gpus_free",
        "gpus_usable",
        "memory",
        "memory_free",
        "nodes",
        "pods",
        "pods_free",
        "unbounded",
    )

    def __init__(self) -> None:
        self.nodes = 0
        self.cpus = 0
        """Milli-CPU."""
        self.cpus_free = 0
        self.memory = 0
        """Bytes."""
        self.memory_free = 0
        self.pods = 0
        self.pods_free = 0
        self.unbounded = 0
        """Nodes without a bound on pods."""
        self.gpus = 0
        """Devices that would do."""
        self.gpus_free = 0
        self.gpus_usable = 0
        """Free and healthy."""

    def add(self, other: Amounts, sign: int) -> None:
        """Add what another one holds, or take it off."""
        for name in Amounts.__slots__:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))


class Tally:
    """Amounts for any of some needs, for one ledger.

    Cost: O(nodes) the first time; then O(devices) of each node that changed.
    """

    def __init__(self, needs: tuple[GroupNeed, ...]) -> None:
        self.total = Amounts()
        self._needs = needs
        self._shares: dict[str, Amounts] = {}
        self._sick: dict[str, Device] = {}
        self._position = -1

    def first_sick(self) -> Device:
        """The first free device that is not healthy, in the order of the names of nodes."""
        return self._sick[min(self._sick)]

    def follow(self, ledger: Ledger) -> None:
        """Count again where something changed."""
        changed = ledger.changed_nodes.since(self._position)
        self._position = ledger.changed_nodes.position
        if changed is None:
            self.total, self._shares, self._sick = Amounts(), {}, {}
            changed = ledger.nodes
        self._count_again(ledger, changed)

    def _count_again(self, ledger: Ledger, names: Iterable[str]) -> None:
        for name in names:
            before = self._shares.pop(name, None)
            if before is not None:
                self.total.add(before, -1)
            self._sick.pop(name, None)
            node = ledger.find(name)
            here = [need for need in self._needs if node is not None and admits(need, node, WELL)]
            if node is not None and here:
                share = self._share_of(node, here, ledger)
                self._shares[name] = share
                self.total.add(share, 1)

    def _share_of(self, node: Node, needs: list[GroupNeed], ledger: Ledger) -> Amounts:
        share = Amounts()
        share.nodes = 1
        share.cpus, share.memory = node.milli_cpus, node.memory_bytes
        share.cpus_free = max(0, ledger.free_milli_cpus(node.name))
        share.memory_free = max(0, ledger.free_memory_bytes(node.name))
        share.pods, share.unbounded = max(0, node.pods_max), int(not node.pods_max)
        share.pods_free = max(0, node.pods_max - ledger.group_count(node.name))
        asking = [need for need in needs if need.gpus]
        for device in node.devices:
            if any(matches(device, need) for need in asking):
                is_free = ledger.holder_of(device.uuid) is None
                share.gpus += 1
                share.gpus_free += is_free
                share.gpus_usable += is_free and device.healthy
                if is_free and not device.healthy:
                    self._sick.setdefault(node.name, device)
        return share
