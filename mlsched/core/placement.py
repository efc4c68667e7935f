"""Where the groups of one job go: filters, then integer scores, then a fixed order of names."""

from __future__ import annotations

import heapq

from mlsched.core.devices import choose
from mlsched.core.ledger import Ledger
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Node
from mlsched.model.resources import GroupNeed
from mlsched.units import count_cpus, format_bytes

_TRIAL = "\0trial"


def place(need: GroupNeed, groups: int, ledger: Ledger) -> tuple[GroupPlacement, ...] | None:
    """Place a gang whole, or not at all.

    Nodes are filled one by one, the best-scored first. The ledger is the same after the call as
    before it.

    Returns:
        One placement a group, in group order; None when not all groups fit now.

    Cost: O(groups x nodes).
    """
    savepoint = ledger.savepoint()
    placed: list[GroupPlacement] = []
    try:
        for index in range(groups):
            group = _place_group(need, ledger)
            if group is None:
                return None
            placed.append(group)
            if index + 1 < groups:
                ledger.take(f"{_TRIAL}{index}", (group,))
    finally:
        ledger.rollback(savepoint)
    return tuple(placed)


def _place_group(need: GroupNeed, ledger: Ledger) -> GroupPlacement | None:
    """The best-scored node that has the devices; counts rule most nodes out first."""
    roomy = [
        (score(need, node, ledger), name)
        for name, node in ledger.nodes.items()
        if _has_room(need, node, ledger)
    ]
    heapq.heapify(roomy)
    while roomy:
        _, name = heapq.heappop(roomy)
        devices = choose(ledger.free_devices(name), need) if need.gpus else ()
        if devices is not None:
            node = ledger.nodes[name]
            memory = node.memory_bytes if need.whole_memory else need.memory_bytes
            uuids = tuple(device.uuid for device in devices)
            return GroupPlacement(name, need.milli_cpus, memory, uuids)
    return None


def _has_room(need: GroupNeed, node: Node, ledger: Ledger) -> bool:
    if not node.schedulable or ledger.free_milli_cpus(node.name) < need.milli_cpus:
        return False
    if ledger.free_device_count(node.name) < need.gpus:
        return False
    memory = node.memory_bytes if need.whole_memory else need.memory_bytes
    return ledger.free_memory_bytes(node.name) >= memory


def score(need: GroupNeed, node: Node, ledger: Ledger) -> tuple[int, int, int]:
    """Integers, lower is better: keep GPU nodes for GPU jobs, then fill the fullest node that fits.

    Source: best fit, which leaves the fewest partly used nodes of the simple rules on the OpenB
    trace (published table of FGD, USENIX ATC 2023).
    """
    gpus_left = ledger.free_device_count(node.name) - need.gpus
    cpus_left = ledger.free_milli_cpus(node.name) - need.milli_cpus
    return (0 if need.gpus else len(node.devices), gpus_left, cpus_left)


def describe_choice(placements: tuple[GroupPlacement, ...], ledger: Ledger) -> str:
    """Why a gang was put where it is; the ledger as it was before."""
    first = ledger.nodes[placements[0].node]
    free = [count_cpus(ledger.free_milli_cpus(first.name))]
    free.append(format_bytes(ledger.free_memory_bytes(first.name)))
    if first.devices:
        free.append(f"{ledger.free_device_count(first.name)} of {len(first.devices)} GPUs")
    rule = "the only node"
    if len(ledger.nodes) > 1:
        rule = f"of {len(ledger.nodes)} nodes the one that is left fullest"
    return f"{first.name} is {rule}; free there were {', '.join(free)}"
