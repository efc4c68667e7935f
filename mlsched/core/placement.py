"""Where the groups of one job go: filters, then integer scores, then a fixed order of names."""

from __future__ import annotations

from mlsched.core.devices import choose
from mlsched.core.ledger import Ledger
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Device, Node
from mlsched.model.resources import GroupNeed

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
    best: tuple[tuple[int, ...], str] | None = None
    chosen: tuple[Device, ...] = ()
    for name, node in ledger.nodes.items():
        if not _has_room(need, node, ledger):
            continue
        free = ledger.free_devices(name) if node.devices else []
        devices = choose(free, need)
        if devices is None:
            continue
        rank = (score(need, node, ledger, len(free)), name)
        if best is None or rank < best:
            best, chosen = rank, devices
    if best is None:
        return None
    node = ledger.nodes[best[1]]
    memory = node.memory_bytes if need.whole_memory else need.memory_bytes
    uuids = tuple(device.uuid for device in chosen)
    return GroupPlacement(node.name, need.milli_cpus, memory, uuids)


def _has_room(need: GroupNeed, node: Node, ledger: Ledger) -> bool:
    if not node.schedulable or ledger.free_milli_cpus(node.name) < need.milli_cpus:
        return False
    memory = node.memory_bytes if need.whole_memory else need.memory_bytes
    return ledger.free_memory_bytes(node.name) >= memory


def score(need: GroupNeed, node: Node, ledger: Ledger, free_devices: int) -> tuple[int, ...]:
    """Integers, lower is better: keep GPU nodes for GPU jobs, then fill the fullest node that fits.

    Source: best fit, which leaves the fewest partly used nodes of the simple rules on the OpenB
    trace (published table of FGD, USENIX ATC 2023).
    """
    left = free_devices - need.gpus
    cpus_left = ledger.free_milli_cpus(node.name) - need.milli_cpus
    return (len(node.devices) if need.gpus == 0 else 0, left, cpus_left)
