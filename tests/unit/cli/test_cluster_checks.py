"""What ``mlsched doctor`` finds in a cluster."""

from __future__ import annotations

import json

import pytest

from mlsched.adapters.kubernetes.announcements import LEASES, SETTINGS_ANNOTATION
from mlsched.cli.cluster_checks import run_cluster_checks
from tests.unit.api.clusters.conftest import NOW_S, Served, at
from tests.unit.api.clusters.conftest import served as served  # noqa: PLC0414 - a fixture

NAMESPACE = "/api/v1/namespaces/team"


def check(served: Served, name: str) -> tuple[str, str]:
    (found,) = [one for one in run_cluster_checks(served[0]) if one.name == name]
    return found.state, found.told


def controller(served: Served) -> tuple[str, str]:
    return check(served, "controller")


def test_a_controller_is_shown_with_its_settings(served: Served) -> None:
    told = {"layerRules": [{"label": "pool", "value": "cpu", "layer": "data"},
                           {"label": "fast", "value": "", "layer": "gpu"}],
            "image": "i:1", "draDrivers": ["gpu.example.com"], "version": "9"}  # fmt: skip
    served[1].lease(annotations={SETTINGS_ANNOTATION: json.dumps(told)})
    state, text = controller(served)
    assert state == "ok"
    assert text == (
        "pod_1_abc in mlsched; mlsched 9; image i:1; layers by pool=cpu:data, fast:gpu; "
        "DRA drivers gpu.example.com"
    )


def test_nobody_who_schedules_is_a_failure(served: Served) -> None:
    assert controller(served)[0] == "fail"
    served[1].lease(renewTime=at(NOW_S - 7200))
    state, text = controller(served)
    assert state == "fail"
    assert "nothing is placed" in text
    assert "2h00m ago" in text


@pytest.mark.parametrize("case", ["no rights", "two controllers"])
def test_what_is_odd_is_a_warning(served: Served, case: str) -> None:
    served[1].lease()
    if case == "no rights":
        served[1].forbidden = {LEASES}
    else:
        served[1].lease("other")
    state, text = controller(served)
    assert state == "warn"
    assert ("you may not read" in text) or ("mlsched, other" in text)


def test_a_namespace_must_exist_where_that_may_be_known(served: Served) -> None:
    assert check(served, "namespace") == ("ok", "team, of context prod")
    served[1].forbidden = {NAMESPACE}
    assert check(served, "namespace") == ("ok", "team, of context prod")
    served[1].forbidden = set()
    served[1].missing = {NAMESPACE}
    state, text = check(served, "namespace")
    assert (state, text) == ("fail", "there is no namespace team in the cluster of context prod.")
