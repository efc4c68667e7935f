"""Placement as plain as it can be: every node is looked at for every group."""

from __future__ import annotations

from collections.abc import Sequence

from mlsched.core.devices import choose
from mlsched.core.filters import AS_IS, View, admits
from mlsched.core.ledger import Ledger
from mlsched.core.rankings import has_room, memory_on, score_of
from mlsched.model.jobs import GroupPlacement
from mlsched.model.resources import GroupNeed


def place_by_scan(
    needs: Sequence[GroupNeed], ledger: Ledger, view: View = AS_IS
) -> tuple[GroupPlacement, ...] | None:
    """What `mlsched.core.placement.place` must give; on a ledger of its own."""
    own = Ledger(ledger.nodes.values(), ledger.held)
    placed: dict[int, GroupPlacement] = {}
    sizes = [(-n.gpus, -n.milli_cpus, not n.whole_memory, -n.memory_bytes) for n in needs]
    for index in sorted(range(len(needs)), key=sizes.__getitem__):
        found = _scan(needs[index], own, view)
        if found is None:
            return None
        placed[index] = found
        own.take(f"trial-{index}", (found,))
    return tuple(placed[index] for index in range(len(needs)))


def _scan(need: GroupNeed, ledger: Ledger, view: View) -> GroupPlacement | None:
    best: tuple[int, str, GroupPlacement] | None = None
    for name, node in ledger.nodes.items():
        if not has_room(need, node, ledger) or not admits(need, node, view):
            continue
        devices = choose(ledger.free_devices(name), need, heeds_health=view.heeds_health)
        if devices is None:
            continue
        uuids = tuple(device.uuid for device in devices)
        group = GroupPlacement(name, need.milli_cpus, memory_on(need, node), uuids)
        found = (score_of(need, node, ledger), name, group)
        if best is None or found[:2] < best[:2]:
            best = found
    return best[2] if best else None
