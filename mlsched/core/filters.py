"""Which nodes a group may be put on at all: layer, labels, affinity, taints.

Room is not looked at here. The rules are those of Kubernetes, so that a pod and a job of ours with
the same selector and tolerations may go to the same nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from mlsched.model.nodes import Node, Taint
from mlsched.model.resources import GroupNeed
from mlsched.model.specs import Toleration

OPEN_LAYERS = frozenset({"", "local"})
"""A node of one of these takes jobs of every layer."""

CONDITION_PREFIX = "node.kubernetes.io/"
"""Taints that tell the state of a node now (not ready, cordoned, short of disk), not its purpose.

Source: Kubernetes documentation, "Taints and Tolerations", taint based evictions.
"""

_BARRING = frozenset({"NoSchedule", "NoExecute"})
_SHOWN_MAX = 5


class View(Struct, frozen=True):
    """Which of today's troubles a question leaves out."""

    heeds_health: bool = True
    """Whether devices that are not healthy are left alone."""
    heeds_conditions: bool = True
    """Whether nodes that take no jobs now are left alone."""


AS_IS = View()
AVAILABLE = View(heeds_conditions=False)
"""As if every node took jobs."""
WELL = View(heeds_health=False, heeds_conditions=False)
"""As if every node took jobs and every device were healthy."""


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration matches one taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def barring_taints(need: GroupNeed, node: Node) -> list[Taint]:
    """Taints that keep the group off the node, those of its present condition included."""
    return [taint for taint in _untolerated(need, node) if taint.effect in _BARRING]


def count_disliked(need: GroupNeed, node: Node) -> int:
    """Taints ``PreferNoSchedule`` that the group does not tolerate: fewer is better."""
    if not node.taints:
        return 0
    return sum(taint.effect == "PreferNoSchedule" for taint in _untolerated(need, node))


def _untolerated(need: GroupNeed, node: Node) -> list[Taint]:
    return [
        taint for taint in node.taints if not any(tolerates(one, taint) for one in need.tolerations)
    ]


def is_of_layer(need: GroupNeed, node: Node) -> bool:
    """Whether the node is of the layer that the group runs on, or of one that takes every job."""
    return node.layer in OPEN_LAYERS or not need.layer or node.layer == need.layer


def has_labels(need: GroupNeed, node: Node) -> bool:
    """Whether the node has every label of the selector with its value."""
    return all(node.labels.get(key) == value for key, value in need.selector)


def suits_affinity(need: GroupNeed, node: Node) -> bool:
    """Whether one term of the group's node affinity holds for the node, or it has none."""
    return not need.affinity or any(term.accepts(node) for term in need.affinity)


def admits(need: GroupNeed, node: Node, view: View = AS_IS) -> bool:
    """Whether the node may take the group, room aside."""
    if not is_of_layer(need, node) or (need.selector and not has_labels(need, node)):
        return False
    if view.heeds_conditions and not node.schedulable:
        return False
    if not suits_affinity(need, node):
        return False
    if not node.taints:
        return True
    barring = barring_taints(need, node)
    return not (barring if view.heeds_conditions else without_conditions(barring))


def without_conditions(taints: Iterable[Taint]) -> list[Taint]:
    """The taints that tell what a node is for, not how it is now."""
    return [taint for taint in taints if not taint.key.startswith(CONDITION_PREFIX)]


def is_troubled(node: Node) -> bool:
    """Whether a node takes no jobs now, or has a device that is not healthy."""
    conditions = any(
        taint.effect in _BARRING and taint.key.startswith(CONDITION_PREFIX) for taint in node.taints
    )
    return conditions or not node.schedulable or not all(d.healthy for d in node.devices)


def describe_conditions(needs: Iterable[GroupNeed], node: Node) -> list[str]:
    """What keeps a node that would do from taking such groups now; empty when nothing does."""
    found = {str(taint) for need in needs for taint in barring_taints(need, node)}
    if not node.schedulable and not found:
        return ["takes no jobs"]
    return sorted(found)


def describe_exclusion(need: GroupNeed, nodes: Sequence[Node]) -> tuple[str, str] | None:
    """The rule that leaves none of the nodes, and the sentence that says so; None when some do.

    Conditions of nodes are left out: they pass.
    """
    if not nodes:
        return None
    left = [node for node in nodes if is_of_layer(need, node)]
    if not left:
        layers = ", ".join(sorted({node.layer for node in nodes}))
        rest = f"no node is of that layer (layers here: {layers})"
        return "layer", f"runs on layer {need.layer}, and {rest}"
    labelled = [node for node in left if has_labels(need, node)]
    if not labelled:
        where = f" of layer {need.layer}" if len(left) < len(nodes) else ""
        return "labels", f"no node{where} has {_missing_labels(need, left)}"
    suited = [node for node in labelled if suits_affinity(need, node)]
    if not suited:
        return "affinity", f"no node suits its node affinity: {_describe_terms(need)}"
    barring = [without_conditions(barring_taints(need, node)) for node in suited]
    if all(barring):
        return "taints", _describe_taints(barring)
    return None


def _missing_labels(need: GroupNeed, nodes: Sequence[Node]) -> str:
    for key, value in need.selector:
        if not any(node.labels.get(key) == value for node in nodes):
            return f"the label {key}={value}"
    return f"the labels {', '.join(f'{key}={value}' for key, value in need.selector)} together"


def _describe_terms(need: GroupNeed) -> str:
    shown = [str(term) for term in need.affinity[:_SHOWN_MAX]]
    more = len(need.affinity) - len(shown)
    return ", or ".join(shown) + (f", or {more} more" if more else "")


def _describe_taints(barring: list[list[Taint]]) -> str:
    found = sorted({str(taint) for taints in barring for taint in taints})
    who = f"all {len(barring)} nodes that would do have"
    if len(barring) == 1:
        who = "the only node that would do has"
    if len(found) == 1:
        return f"{who} the taint {found[0]}"
    more = f" and {len(found) - _SHOWN_MAX} more" if len(found) > _SHOWN_MAX else ""
    return f"{who} taints that it does not tolerate: {', '.join(found[:_SHOWN_MAX])}{more}"
