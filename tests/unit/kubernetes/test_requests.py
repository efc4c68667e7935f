"""Quantities, and what a pod asks of its node."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.kubernetes.objects import Pod, parse_milli, parse_units
from mlsched.adapters.kubernetes.requests import UnsupportedPodError, need_of_pod, requested


@pytest.mark.parametrize(
    ("text", "milli"),
    [
        ("1", 1000), ("500m", 500), ("1.5", 1500), ("0.1", 100), ("2Ki", 2048_000),
        ("1k", 1_000_000), ("100n", 1), ("1e3", 1_000_000), (2, 2000), ("12E", 12 * 10**21),
    ],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_does(text: str, milli: int) -> None:
    assert parse_milli(text) == milli


@given(st.integers(0, 10**15))
def test_whole_numbers_stay_what_they_are(number: int) -> None:
    assert parse_units(str(number)) == number
    assert parse_units(f"{number}Ki") == number * 1024


@pytest.mark.parametrize("text", ["", "x", "1x", "Ki", "1 Ki Ki"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_milli(text)


def _pod(spec: dict[str, Any]) -> Pod:
    body = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}
    return msgspec.json.decode(json.dumps(body), type=Pod)


def _container(cpu: str, **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}


def test_containers_add_up_and_init_containers_do_not() -> None:
    spec = {
        "containers": [_container("1"), _container("500m")],
        "initContainers": [_container("2"), _container("1")],
        "overhead": {"cpu": "100m"},
    }
    assert requested(_pod(spec)) == {"cpu": 2100}


def test_a_sidecar_stays_beside_what_comes_after_it() -> None:
    sidecar = _container("300m", restartPolicy="Always")
    spec = {"containers": [_container("1")], "initContainers": [sidecar, _container("2")]}
    assert requested(_pod(spec)) == {"cpu": 2300}


def test_a_limit_without_a_request_is_one() -> None:
    spec = {"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}
    assert need_of_pod(_pod(spec)).gpus == 2


def _affinity(terms: list[dict[str, Any]]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": terms}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def test_a_node_selector_and_an_affinity_must_both_hold() -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    spec = {
        "containers": [_container("1")],
        "nodeSelector": {"disk": "ssd"},
        "affinity": _affinity([term]),
    }
    need = need_of_pod(_pod(spec))
    assert need.selector == (("disk", "ssd"),)
    assert [str(term) for term in need.affinity] == ["zone In (a)"]


@pytest.mark.parametrize(
    "more",
    [
        {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}},
        {"affinity": _affinity([{"matchFields": [
            {"key": "spec.podCIDR", "operator": "In", "values": ["a"]}]}])},
        {"affinity": _affinity([{"matchExpressions": [{"key": "a", "operator": "Like"}]}])},
        {"tolerations": [{"key": "sla", "operator": "Gt", "value": "9"}]},
        {"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]},
        {"containers": [{"name": "c", "resources": {"limits": {"example.com/fpga": "1"}}}]},
        {"containers": [{"name": "c", "resources": {
            "limits": {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "1"}}}]},
    ],
)  # fmt: skip
def test_what_would_be_placed_wrongly_is_not_placed(more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedPodError):
        need_of_pod(_pod({"containers": [_container("1")]} | more))


def test_a_pod_of_others_counts_although_it_tolerates_by_a_rule_that_is_not_known() -> None:
    """It would be left alone as a whole if it could not be decoded, and its node be given twice."""
    toleration = {"key": "sla", "operator": "Gt", "value": "950", "effect": "Later"}
    pod = _pod({"containers": [_container("1")], "tolerations": [toleration]})
    assert requested(pod) == {"cpu": 1000}
