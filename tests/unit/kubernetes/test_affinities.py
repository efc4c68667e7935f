"""Node affinity of foreign pods, beside Kubernetes' rules written down plainly."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.requests import need_of_pod
from mlsched.core.filters import admits
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.model.affinities import Requirement, named_nodes
from mlsched.model.nodes import Node
from mlsched.model.resources import GroupNeed
from mlsched.testing.builders import node
from mlsched.testing.scans import place_by_scan

Json = dict[str, Any]

KEYS = st.sampled_from(["zone", "cores", "metadata.name"])
VALUES = st.sampled_from(["a", "b", "", "7", "8", "08", "9"])
NAMES = st.sampled_from(["a", "b", "c"])

EXPRESSIONS = st.one_of(
    st.fixed_dictionaries({
        "key": KEYS,
        "operator": st.sampled_from(["In", "NotIn"]),
        "values": st.lists(VALUES, min_size=1, max_size=3),
    }),
    st.fixed_dictionaries({"key": KEYS, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
    st.fixed_dictionaries({
        "key": KEYS,
        "operator": st.sampled_from(["Gt", "Lt"]),
        "values": st.lists(VALUES, min_size=1, max_size=1),
    }),
)  # fmt: skip
FIELDS = st.fixed_dictionaries({
    "key": st.just("metadata.name"),
    "operator": st.sampled_from(["In", "NotIn"]),
    "values": st.lists(NAMES, min_size=1, max_size=1),
})  # fmt: skip
TERMS = st.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": st.lists(EXPRESSIONS, max_size=3),
        "matchFields": st.lists(FIELDS, max_size=2),
    },
)
AFFINITIES = st.lists(TERMS, min_size=1, max_size=3)
NODES = st.lists(
    st.builds(
        lambda name, labels, cpus: node(name, labels=labels, cpus=cpus),
        NAMES,
        st.dictionaries(KEYS, VALUES),
        st.integers(1, 3),
    ),
    unique_by=lambda one: one.name,
    max_size=3,
)


def _need(terms: list[Json], **more: Any) -> GroupNeed:
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    container = {"name": "c", "resources": {"requests": {"cpu": "1"}}}
    spec = {"containers": [container], "affinity": {"nodeAffinity": affinity}, **more}
    return need_of_pod(msgspec.json.decode(json.dumps({"metadata": {}, "spec": spec}), type=Pod))


def _holds(one: Json, found: Json) -> bool:
    """What Kubernetes' documentation says of one expression, for small numbers."""
    key, operator, values = one["key"], one["operator"], one.get("values", [])
    if operator in {"Gt", "Lt"}:
        if key not in found or not (found[key].isdecimal() and values[0].isdecimal()):
            return False
        more = int(found[key]) - int(values[0])
        return more > 0 if operator == "Gt" else more < 0
    return bool({
        "In": key in found and found[key] in values,
        "NotIn": key not in found or found[key] not in values,
        "Exists": key in found,
        "DoesNotExist": key not in found,
    }[operator])  # fmt: skip


def _suits(terms: list[Json], one: Node) -> bool:
    for term in terms:
        labels, fields = term.get("matchExpressions", []), term.get("matchFields", [])
        found = [_holds(each, one.labels) for each in labels]
        found += [_holds(each, {"metadata.name": one.name}) for each in fields]
        if found and all(found):
            return True
    return False


@given(AFFINITIES, NODES)
def test_a_pod_may_go_where_kubernetes_lets_it(terms: list[Json], nodes: list[Node]) -> None:
    need = _need(terms)
    for one in nodes:
        assert admits(need, one) == _suits(terms, one)


@given(AFFINITIES, NODES)
def test_names_that_bound_the_nodes_leave_none_out(terms: list[Json], nodes: list[Node]) -> None:
    need = _need(terms)
    ledger = Ledger(nodes)
    assert place((need,), ledger) == place_by_scan((need,), ledger)
    names = named_nodes(need.affinity)
    assert names is None or names >= {one.name for one in nodes if admits(need, one)}


@given(AFFINITIES, st.lists(NODES, min_size=2, max_size=3))
def test_labels_that_change_are_followed(terms: list[Json], rounds: list[list[Node]]) -> None:
    need = _need(terms)
    ledger = Ledger()
    for nodes in rounds:
        for one in nodes:
            ledger.observe(one)
        assert place((need,), ledger) == place_by_scan((need,), ledger)


@pytest.mark.parametrize(
    ("found", "operator", "bound", "holds"),
    [
        ("9", "Gt", "8", True), ("8", "Gt", "8", False), ("7", "Lt", "8", True),
        ("10", "Gt", "9", True), ("-3", "Lt", "+2", True), ("-1", "Gt", "-2", True),
        ("1_000", "Gt", "8", False), (" 9", "Gt", "8", False), ("\u0669", "Gt", "8", False),
        ("9.5", "Gt", "8", False), ("9", "Gt", "eight", False), ("", "Lt", "8", False),
        (None, "Lt", "8", False), ("000000000000000000000000009", "Gt", "8", True),
        ("9223372036854775807", "Gt", "8", True), ("9223372036854775808", "Gt", "8", False),
        ("9" * 5000, "Gt", "8", False), ("-9223372036854775808", "Lt", "8", True),
    ],
)  # fmt: skip
def test_numbers_are_read_as_go_reads_them(
    found: str | None, operator: Any, bound: str, *, holds: bool
) -> None:
    assert Requirement("cores", operator, frozenset({bound})).accepts(found) is holds


def test_a_node_selector_that_contradicts_the_affinity_leaves_no_node() -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}
    need = _need([term], nodeSelector={"zone": "a"})
    assert not any(admits(need, node(labels={"zone": zone})) for zone in "ab")


def test_a_term_without_requirements_and_no_terms_at_all_hold_for_no_node() -> None:
    assert not admits(_need([{}]), node())
    assert not admits(_need([]), node())
