"""Which nodes a pod requires, as Kubernetes' node affinity says it: terms of which one must hold.

Source: Kubernetes' component helpers, scheduling/corev1/nodeaffinity; labels.Requirement.Matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from msgspec import Struct

from mlsched.model.nodes import Node

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
OPERATORS: frozenset[str] = frozenset(get_args(Operator))

NAME_FIELD = "metadata.name"
"""The one field of a node that a term can match."""

_INTEGER = re.compile(r"[+-]?0*[0-9]{1,19}", re.ASCII)
_INT64 = range(-(2**63), 2**63)


class Requirement(Struct, frozen=True):
    """What one label, or the name of the node, must be."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def accepts(self, found: str | None) -> bool:
        """Whether it holds for this value; None where there is none.

        ``Gt`` and ``Lt`` hold only between two whole numbers of 64 bits.
        """
        if self.operator == "In":
            return found in self.values
        if self.operator == "NotIn":
            return found not in self.values
        if self.operator == "Exists":
            return found is not None
        if self.operator == "DoesNotExist":
            return found is None
        here = _whole(found)
        bound = _whole(next(iter(self.values))) if len(self.values) == 1 else None
        if here is None or bound is None:
            return False
        return here > bound if self.operator == "Gt" else here < bound

    def __str__(self) -> str:
        """``zone In (a, b)``, ``disk Exists``, ``cores Gt (8)``."""
        values = f" ({', '.join(sorted(self.values))})" if self.values else ""
        return f"{self.key} {self.operator}{values}"


class NodeTerm(Struct, frozen=True):
    """Requirements that must all hold; a term without any holds for no node."""

    labels: tuple[Requirement, ...] = ()
    names: tuple[Requirement, ...] = ()

    def accepts(self, node: Node) -> bool:
        """Whether all of them hold for the node."""
        if not (self.labels or self.names):
            return False
        labels = node.labels
        return all(one.accepts(labels.get(one.key)) for one in self.labels) and all(
            one.accepts(node.name) for one in self.names
        )

    def __str__(self) -> str:
        """``zone In (a, b) and disk Exists``."""
        return " and ".join(map(str, (*self.labels, *self.names))) or "nothing"


def named_nodes(terms: Iterable[NodeTerm]) -> frozenset[str] | None:
    """Names of the only nodes that the terms can hold for; None where names do not bound them."""
    found: set[str] = set()
    for term in terms:
        names = [one.values for one in term.names if one.operator == "In"]
        if not names:
            return None
        found |= names[0].intersection(*names[1:])
    return frozenset(found)


def _whole(text: str | None) -> int | None:
    """A number as Go's ParseInt reads it: digits with or without a sign, of 64 bits."""
    if text is None or not _INTEGER.fullmatch(text):
        return None
    sign, digits = text[0] == "-", text.lstrip("+-").lstrip("0") or "0"
    number = -int(digits) if sign else int(digits)
    return number if number in _INT64 else None
