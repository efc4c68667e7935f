"""The Helm chart: what it renders, what it refuses, and that its own account suffices."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlsched.specs.crds import build_crds
from mlsched.specs.documents import to_yaml
from tests.controlplane import binaries, controllers
from tests.controlplane.controllers import Jobs
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ApiError, ControlPlane

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

CHART = Path(__file__).parents[3] / "deploy" / "helm" / "mlsched"
Until = Callable[..., Any]

CONTROLLER_RULES = {
    ("mlsched.io", "mljobs"): {"get", "list", "watch"},
    ("mlsched.io", "mlqueues"): {"get", "list", "watch"},
    ("mlsched.io", "gpunodes"): {"get", "list", "watch"},
    ("mlsched.io", "mljobs/status"): {"update"},
    ("", "nodes"): {"list", "watch"},
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("", "pods/binding"): {"create"},
    ("", "services"): {"get", "create"},
    ("", "events"): {"create"},
    ("scheduling.k8s.io", "podgroups"): {"list", "watch"},
    ("resource.k8s.io", "resourceslices"): {"list", "watch"},
    ("resource.k8s.io", "resourceclaims"): {"get", "list", "watch", "create"},
    ("resource.k8s.io", "resourceclaims/status"): {"patch", "update"},
    ("resource.k8s.io", "resourceclaims/binding"): {"patch", "update"},
}
AGENT_RULES = {
    ("mlsched.io", "gpunodes"): {"get", "create"},
    ("mlsched.io", "gpunodes/status"): {"update"},
    ("", "nodes"): {"get"},
}
PLURALS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as ``make chart`` completes it."""
    made = tmp_path_factory.mktemp("chart") / "mlsched"
    shutil.copytree(CHART, made, ignore=shutil.ignore_patterns("files"))
    (made / "files").mkdir()
    crds = "---\n".join(to_yaml(one) for one in build_crds())
    (made / "files" / "crds.yaml").write_text(crds)
    return made


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binaries.need("helm"), *words], capture_output=True, text=True, check=False, timeout=60
    )


def render(chart: Path, namespace: str = "mlsched", **values: Any) -> list[dict[str, Any]]:
    """What helm makes of the chart, with values by their paths: ``controller__replicas=2``."""
    words = [f"--set-json={path.replace('__', '.')}={json.dumps(v)}" for path, v in values.items()]
    found = helm("template", "m", str(chart), "--namespace", namespace, *words)
    assert found.returncode == 0, found.stderr
    return [one for one in yaml.safe_load_all(found.stdout) if one]


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (one,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return one


def rules(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_chart_is_linted(chart: Path) -> None:
    found = helm("lint", "--strict", str(chart))
    assert found.returncode == 0, found.stdout


def test_without_the_crds_it_says_what_to_do(tmp_path: Path) -> None:
    bare = tmp_path / "mlsched"
    shutil.copytree(CHART, bare, ignore=shutil.ignore_patterns("files"))
    found = helm("template", "m", str(bare))
    assert "make chart" in found.stderr
    assert helm("template", "m", str(bare), "--set", "crds.install=false").returncode == 0


def test_rights_are_what_is_needed_and_nothing_else(chart: Path) -> None:
    objects = render(chart)
    assert rules(find(objects, "ClusterRole", "m-controller")) == CONTROLLER_RULES
    assert rules(find(objects, "ClusterRole", "m-agent")) == AGENT_RULES
    lease = find(objects, "Role", "m-controller")
    assert {r for rule in lease["rules"] for r in rule["resources"]} == {"leases"}
    for role in objects:
        if role["kind"] in ("ClusterRole", "Role"):
            text = json.dumps(role["rules"])
            assert "*" not in text
            assert "secrets" not in text


def test_without_dra_there_are_no_rights_on_claims(chart: Path) -> None:
    found = rules(find(render(chart, dra__enabled=False), "ClusterRole", "m-controller"))
    assert not [group for group, _ in found if group == "resource.k8s.io"]


def test_options_reach_the_controller(chart: Path) -> None:
    objects = render(
        chart,
        controller__replicas=2,
        controller__jobImage="jobs:1",
        controller__layerRules=["pool=cpu:data"],
        controller__podDisruptionBudget=True,
        controller__tolerations=[{"operator": "Exists"}],
        image__tag="2",
        image__pullSecrets=[{"name": "registry"}],
    )
    deployment = find(objects, "Deployment", "m-controller")
    spec = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 2
    assert spec["containers"][0]["image"] == "mlsched:2"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert {"--image=jobs:1", "--layer-rule=pool=cpu:data"} <= set(spec["containers"][0]["args"])
    assert find(objects, "PodDisruptionBudget", "m-controller")["spec"]["maxUnavailable"] == 1


def test_parts_can_be_left_out(chart: Path) -> None:
    objects = render(chart, agent__enabled=False, rbac__userRoles=False, rbac__whyRole=False,
                     crds__install=False)  # fmt: skip
    kinds = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert kinds == {
        ("ServiceAccount", "m-controller"),
        ("ClusterRole", "m-controller"),
        ("ClusterRoleBinding", "m-controller"),
        ("Role", "m-controller"),
        ("RoleBinding", "m-controller"),
        ("Deployment", "m-controller"),
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("controller.replicas=many", "replicas"),
        ("controller.replica=2", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("controller.layerRules={nonsense}", "layerRules"),
    ],
)
def test_wrong_values_are_refused(chart: Path, value: str, words: str) -> None:
    found = helm("template", "m", str(chart), "--set", value)
    assert found.returncode != 0
    assert words in found.stderr


def test_the_controller_works_with_the_rights_of_the_chart(chart: Path, until: Until) -> None:
    with ControlPlane(controller_manager=True, lifted=True) as plane:
        kwok = Kwok(plane)
        kwok.add_nodes(2, gpus=8)
        plane.create_namespace("mlsched")
        for one in render(chart, controller__podDisruptionBudget=True):
            plane.api("POST", PLURALS[one["kind"]].format("mlsched"), one)
        config = plane.kubeconfig_for_service_account("mlsched", "m-controller")
        log = controllers.start(plane, "--namespace", "mlsched", kubeconfig=config).log
        jobs = Jobs(plane, plane.create_namespace("team"))
        _run_everything(jobs, until)
        assert "403" not in log.read_text()
        with pytest.raises(ApiError, match="forbidden"):
            plane.api(
                "GET",
                "/api/v1/secrets",
                token=plane.service_account_token("mlsched", "m-controller"),
            )


def _run_everything(jobs: Jobs, until: Until) -> None:
    """A gang to its end, a job that is cancelled, a foreign pod, a deleted job."""
    play = {"mlsched.io/run-for": "0.3s"}
    none = {"command": ["none"], "image": "none"}
    jobs.submit("gang", play, **none, nodes=2, gpusPerNode=8)
    until(lambda: jobs.state("gang") == "SUCCEEDED", 60)
    jobs.submit("long", **none, gpusPerNode=1)
    until(lambda: jobs.state("long") == "RUNNING", 30)
    jobs.cancel("long")
    until(lambda: jobs.state("long") == "CANCELLED", 30)
    spec = {"schedulerName": "mlsched", "containers": [{"name": "c", "image": "none"}]}
    jobs.plane.api("POST", jobs.pods_path, {"metadata": {"name": "foreign"}, "spec": spec})
    until(lambda: jobs.pods()["foreign"]["spec"].get("nodeName"), 30)
    until(lambda: jobs.events("gang") == ["Placed", "Started", "Completed"], 30)
