"""Where the groups of one job go: filters, then integer scores, then a fixed order of names."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from mlsched.core.devices import choose
from mlsched.core.filters import AS_IS, OPEN_LAYERS, View, admits, count_disliked
from mlsched.core.ledger import Ledger
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Node
from mlsched.model.resources import DATA_LAYER, GPU_LAYER, GroupNeed
from mlsched.units import count_cpus, format_bytes

_TRIAL = "\0trial"


def place(
    needs: Sequence[GroupNeed], ledger: Ledger, view: View = AS_IS
) -> tuple[GroupPlacement, ...] | None:
    """Place a gang whole, or not at all.

    The largest group is placed first; each takes the best-scored node. The ledger is the same after
    the call as before it.

    Returns:
        One placement a need, in the order of the needs; None when not all groups fit now. Equal
        groups are placed whenever they fit; a gang of groups that differ may be missed.

    Cost: O(groups x nodes).
    """
    savepoint = ledger.savepoint()
    placed: dict[int, GroupPlacement] = {}
    try:
        for index in _largest_first(needs):
            group = _place_group(needs[index], ledger, view)
            if group is None:
                return None
            placed[index] = group
            if len(placed) < len(needs):
                ledger.take(f"{_TRIAL}{index}", (group,))
    finally:
        ledger.rollback(savepoint)
    return tuple(placed[index] for index in range(len(needs)))


def _largest_first(needs: Sequence[GroupNeed]) -> Sequence[int]:
    def size(index: int) -> tuple[int, int, bool, int]:
        need = needs[index]
        return (-need.gpus, -need.milli_cpus, not need.whole_memory, -need.memory_bytes)

    return sorted(range(len(needs)), key=size)


def _place_group(need: GroupNeed, ledger: Ledger, view: View) -> GroupPlacement | None:
    """The best-scored node that has the devices; counts rule most nodes out first."""
    roomy = [
        (score(need, node, ledger), name)
        for name, node in ledger.nodes.items()
        if _has_room(need, node, ledger) and admits(need, node, view)
    ]
    heapq.heapify(roomy)
    while roomy:
        _, name = heapq.heappop(roomy)
        devices = choose(ledger.free_devices(name), need, heeds_health=view.heeds_health)
        if devices is not None:
            memory = memory_on(need, ledger.nodes[name])
            uuids = tuple(device.uuid for device in devices)
            return GroupPlacement(name, need.milli_cpus, memory, uuids)
    return None


def memory_on(need: GroupNeed, node: Node) -> int:
    """Bytes that the group takes on this node."""
    return node.memory_bytes if need.whole_memory else need.memory_bytes


def _has_room(need: GroupNeed, node: Node, ledger: Ledger) -> bool:
    name = node.name
    if ledger.free_milli_cpus(name) < need.milli_cpus:
        return False
    if ledger.free_device_count(name) < need.gpus:
        return False
    if node.pods_max and ledger.group_count(name) >= node.pods_max:
        return False
    return ledger.free_memory_bytes(name) >= memory_on(need, node)


def score(need: GroupNeed, node: Node, ledger: Ledger) -> tuple[int, int, int, int]:
    """Integers, lower is better: keep GPU nodes for GPU jobs, then fill the fullest node that fits.

    A node that would rather have no such job (taint ``PreferNoSchedule``) comes after all others.

    Source: best fit, which leaves the fewest partly used nodes of the simple rules on the OpenB
    trace (published table of FGD, USENIX ATC 2023).
    """
    gpus_left = ledger.free_device_count(node.name) - need.gpus
    cpus_left = ledger.free_milli_cpus(node.name) - need.milli_cpus
    kept_gpus = 0 if need.gpus else len(node.devices)
    return (count_disliked(need, node), kept_gpus, gpus_left, cpus_left)


def describe_choice(need: GroupNeed, placements: tuple[GroupPlacement, ...], ledger: Ledger) -> str:
    """Why a gang was put where it is; the ledger as it was before.

    Args:
        need: What its first group needs.
    """
    first = ledger.nodes[placements[0].node]
    free = [count_cpus(ledger.free_milli_cpus(first.name))]
    free.append(format_bytes(ledger.free_memory_bytes(first.name)))
    if first.devices:
        free.append(f"{ledger.free_device_count(first.name)} of {len(first.devices)} GPUs")
    count = len(ledger.nodes)
    layer, rule = "", ""
    if first.layer not in OPEN_LAYERS:
        count = ledger.layer_size(first.layer)
        layer, rule = f" of layer {first.layer}", f" ({_layer_rule(need)})"
    which = f"the only node{layer}"
    if count > 1:
        which = f"of {count} nodes{layer} the one that is left fullest"
    return f"{first.name} is {which}{rule}; free there were {', '.join(free)}"


def _layer_rule(need: GroupNeed) -> str:
    if need.gpus and need.layer == GPU_LAYER:
        return "GPU jobs go to layer gpu"
    if not need.gpus and need.layer == DATA_LAYER:
        return "jobs without GPUs go to layer data"
    return f"it asks for layer {need.layer}" if need.layer else "it may go to every layer"
