"""Where the groups of one job go: filters, then integer scores, then a fixed order of names."""

from __future__ import annotations

from collections.abc import Sequence

from mlsched.core.filters import AS_IS, OPEN_LAYERS, View
from mlsched.core.ledger import Ledger
from mlsched.core.rankings import memory_on
from mlsched.model.jobs import GroupPlacement
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

    Cost: O(groups x log nodes), and O(nodes) for a need that the ledger has no ranking of.
    """
    if len(needs) == 1:
        group = _place_group(needs[0], ledger, view)
        return None if group is None else (group,)
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
    if needs.count(needs[0]) == len(needs):
        return range(len(needs))

    def size(index: int) -> tuple[int, int, bool, int]:
        need = needs[index]
        return (-need.gpus, -need.milli_cpus, not need.whole_memory, -need.memory_bytes)

    return sorted(range(len(needs)), key=size)


def _place_group(need: GroupNeed, ledger: Ledger, view: View) -> GroupPlacement | None:
    best = ledger.ranking(need, view).best(ledger)
    if best is None:
        return None
    name, devices = best
    memory = memory_on(need, ledger.nodes[name])
    return GroupPlacement(name, need.milli_cpus, memory, tuple(d.uuid for d in devices))


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
