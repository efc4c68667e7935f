"""What pods take from each node, kept as they come, are resized and go: O(1) a change."""

from __future__ import annotations

from collections.abc import Callable

from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.requests import Amounts, requested


class Usages:
    """Sums of the requests of pods that placement does not know of, by node.

    Args:
        is_owned: Whether a pod is counted by the ledger already.
    """

    def __init__(self, is_owned: Callable[[Pod], bool]) -> None:
        self._is_owned = is_owned
        self._counted: dict[str, tuple[str, Amounts]] = {}
        self._totals: dict[str, Amounts] = {}

    def observe(self, before: Pod | None, after: Pod | None) -> str:
        """Take note of a change of a pod; the node whose sum changed, or empty."""
        pod = after or before
        if pod is None:
            return ""
        key = pod.metadata.key
        node = "" if after is None or after.is_over else after.spec.node_name
        if node and after is not None and self._is_owned(after):
            node = ""
        known = self._counted.get(key)
        amounts = _safely(after) if node and after is not None else {}
        if known is not None and known == (node, amounts):
            return ""
        if known is not None:
            self._add(known[0], known[1], -1)
            del self._counted[key]
        if node:
            self._counted[key] = (node, amounts)
            self._add(node, amounts, 1)
        return node or (known[0] if known else "")

    def of(self, node: str) -> Amounts:
        """What is taken from a node, ``pods`` among it."""
        return self._totals.get(node, {})

    def _add(self, node: str, amounts: Amounts, sign: int) -> None:
        total = self._totals.setdefault(node, {})
        for name, amount in amounts.items():
            total[name] = total.get(name, 0) + sign * amount
        if not any(total.values()):
            del self._totals[node]  # names of nodes come and go where machines are rented


def _safely(pod: Pod) -> Amounts:
    """The requests of a pod, itself among ``pods``; one whose quantities are none takes nothing."""
    try:
        return {**requested(pod), "pods": 1}
    except ValueError:
        return {"pods": 1}
