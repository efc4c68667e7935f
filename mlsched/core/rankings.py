"""Nodes in the order in which one need would take them, corrected only where something changed.

A full scan of the nodes for every group would be what a decision costs on a large cluster. A
ranking gives the very same node: a heap of scores in which old entries stay until they come up,
and a journal of the ledger that says which nodes to score again.

Source: lazy deletion in a heap, "Priority Queue Implementation Notes" of Python's heapq.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlsched.core.devices import choose
from mlsched.core.filters import View, admits, count_disliked
from mlsched.model.affinities import named_nodes
from mlsched.model.nodes import Device, Node
from mlsched.model.resources import GroupNeed

if TYPE_CHECKING:
    from mlsched.core.ledger import Ledger

_CPU_BITS = 44
_COUNT_BITS = 16


class Ranking:
    """Nodes with room for a need, the best-scored first, for one ledger.

    Cost: O(nodes) the first time (only those that the need names, if it does); then O(log nodes) a
    node that changed.
    """

    def __init__(self, need: GroupNeed, view: View) -> None:
        self._need = need
        self._view = view
        self._names = named_nodes(need.affinity) if need.affinity else None
        self._scores: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._position = -1

    def best(self, ledger: Ledger) -> tuple[str, tuple[Device, ...]] | None:
        """The node that a group takes, and the devices on it; None when none has room."""
        self._follow(ledger)
        while self._heap:
            score, name = self._heap[0]
            if self._scores.get(name) == score:
                devices = self._choose(ledger, name)
                if devices is not None:
                    return name, devices
                # Enough devices are free and too few will do: so until the node changes.
                del self._scores[name]
            heapq.heappop(self._heap)
        return None

    def _choose(self, ledger: Ledger, name: str) -> tuple[Device, ...] | None:
        if not self._need.gpus:
            return ()
        heeds_health = self._view.heeds_health
        return choose(ledger.free_devices(name), self._need, heeds_health=heeds_health)

    def _follow(self, ledger: Ledger) -> None:
        changed = ledger.changed_nodes.since(self._position)
        self._position = ledger.changed_nodes.position
        if changed is None:
            self._scores.clear()
            self._score_again(ledger, ledger.nodes if self._names is None else self._names)
        elif changed:
            self._score_again(ledger, changed)
        if changed is None or len(self._heap) > 2 * len(self._scores) + 64:
            self._heap = [(score, name) for name, score in self._scores.items()]
            heapq.heapify(self._heap)

    def _score_again(self, ledger: Ledger, names: Iterable[str]) -> None:
        for name in names:
            node = ledger.find(name)
            score = None
            if (
                node is not None
                and has_room(self._need, node, ledger)
                and admits(self._need, node, self._view)
            ):
                score = score_of(self._need, node, ledger)
            if score is None:
                self._scores.pop(name, None)
            elif self._scores.get(name) != score:
                self._scores[name] = score
                heapq.heappush(self._heap, (score, name))


def memory_on(need: GroupNeed, node: Node) -> int:
    """Bytes that the group takes on this node."""
    return node.memory_bytes if need.whole_memory else need.memory_bytes


def has_room(need: GroupNeed, node: Node, ledger: Ledger) -> bool:
    """Whether a node has enough of everything that is counted; which devices, is not looked at."""
    name = node.name
    if ledger.free_milli_cpus(name) < need.milli_cpus:
        return False
    if ledger.free_device_count(name) < need.gpus:
        return False
    if node.pods_max and ledger.group_count(name) >= node.pods_max:
        return False
    return ledger.free_memory_bytes(name) >= memory_on(need, node)


def score_of(need: GroupNeed, node: Node, ledger: Ledger) -> int:
    """Lower is better: keep GPU nodes for GPU jobs, then fill the fullest node that fits.

    One integer for the four of which an earlier one decides: taints ``PreferNoSchedule``, GPUs that
    a job without GPUs would keep from others, GPUs left, milli-CPU left.

    Source: best fit, which leaves the fewest partly used nodes of the simple rules on the OpenB
    trace (published table of FGD, USENIX ATC 2023).
    """
    score = count_disliked(need, node) << _COUNT_BITS
    score = (score + (0 if need.gpus else len(node.devices))) << _COUNT_BITS
    score = (score + ledger.free_device_count(node.name) - need.gpus) << _CPU_BITS
    return score + ledger.free_milli_cpus(node.name) - need.milli_cpus
