"""The Helm chart: what it renders, what it refuses, and that its own account suffices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlsched.adapters.kubernetes.announcements import LEASE_NAME
from mlsched.specs.crds import build_crds
from tests.controlplane import charts, controllers
from tests.controlplane.charts import find, helm, render, rules
from tests.controlplane.controllers import Jobs
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ApiError, ControlPlane

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "kubernetes.md"
Until = Callable[..., Any]

CONTROLLER_RULES = {
    ("mlsched.io", "mljobs"): {"get", "list", "watch"},
    ("mlsched.io", "mlqueues"): {"list", "watch"},
    ("mlsched.io", "gpunodes"): {"list", "watch"},
    ("mlsched.io", "mljobs/status"): {"update"},
    ("", "nodes"): {"list", "watch"},
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("", "pods/binding"): {"create"},
    ("", "services"): {"get", "create"},
    ("", "secrets"): {"create", "delete"},
    ("", "events"): {"create"},
    ("scheduling.k8s.io", "podgroups"): {"list", "watch"},
    ("resource.k8s.io", "resourceslices"): {"list", "watch"},
    ("resource.k8s.io", "resourceclaims"): {"get", "list", "watch", "create"},
    ("resource.k8s.io", "resourceclaims/status"): {"patch"},
    ("resource.k8s.io", "resourceclaims/binding"): {"patch"},
}
AGENT_RULES = {
    ("mlsched.io", "gpunodes"): {"get", "create"},
    ("mlsched.io", "gpunodes/status"): {"update"},
    ("", "nodes"): {"get"},
}


def test_the_chart_is_linted(chart: Path) -> None:
    found = helm("lint", "--strict", str(chart))
    assert found.returncode == 0, found.stdout


def test_without_the_crds_it_says_what_to_do(tmp_path: Path) -> None:
    bare = charts.copy(tmp_path)
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
            assert "secrets" not in text or role["metadata"]["name"] == "m-controller"


def test_users_see_the_lease_of_the_controller_and_no_other(chart: Path) -> None:
    objects = render(chart)
    (subject,) = find(objects, "ClusterRoleBinding", "m-status")["subjects"]
    assert (subject["kind"], subject["name"]) == ("Group", "system:authenticated")
    for name in ("m-status", "m-why"):
        found = find(objects, "ClusterRole", name)["rules"]
        (rule,) = [one for one in found if "leases" in one["resources"]]
        assert rule["resourceNames"] == [LEASE_NAME]
        assert rule["verbs"] == ["get", "list"]


def test_without_dra_there_are_no_rights_on_claims(chart: Path) -> None:
    found = rules(find(render(chart, dra__enabled=False), "ClusterRole", "m-controller"))
    assert not [group for group, _ in found if group == "resource.k8s.io"]


def crds(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    kind = "CustomResourceDefinition"
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def test_the_crds_are_those_of_the_model_and_stay(chart: Path) -> None:
    kept = crds(render(chart))
    policies = [one["metadata"].pop("annotations") for one in kept.values()]
    assert policies == [{"helm.sh/resource-policy": "keep"}] * 3
    assert kept == crds(build_crds())
    assert crds(render(chart, crds__keep=False)) == crds(build_crds())


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


def test_options_reach_the_agent(chart: Path) -> None:
    objects = render(
        chart,
        agent__namespace="gpu",
        agent__runtimeClassName="nvidia",
        agent__extraArgs=["--period=30"],
        agent__nodeSelector={"nvidia.com/gpu.present": None, "pool": "gpu"},
    )
    daemons = find(objects, "DaemonSet", "m-agent")
    spec = daemons["spec"]["template"]["spec"]
    assert daemons["metadata"]["namespace"] == "gpu"
    assert find(objects, "ServiceAccount", "m-agent")["metadata"]["namespace"] == "gpu"
    (subject,) = find(objects, "ClusterRoleBinding", "m-agent")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "m-agent", "namespace": "gpu"}
    assert (spec["runtimeClassName"], spec["nodeSelector"]) == ("nvidia", {"pool": "gpu"})
    assert spec["containers"][0]["args"] == ["agent", "--period=30"]


def test_the_network_policies_let_pods_reach_the_api_server_only(chart: Path) -> None:
    objects = render(
        chart,
        networkPolicy__enabled=True,
        networkPolicy__apiServerCidrs=["10.0.0.1/32"],
        networkPolicy__apiServerPorts=[6443],
    )
    rule = {
        "ports": [{"protocol": "TCP", "port": 6443}],
        "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    }
    for kind, name in (("Deployment", "m-controller"), ("DaemonSet", "m-agent")):
        spec = find(objects, "NetworkPolicy", name)["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in spec
        assert spec["egress"] == [rule]
        labels = find(objects, kind, name)["spec"]["template"]["metadata"]["labels"]
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()


def test_parts_can_be_left_out(chart: Path) -> None:
    objects = render(chart, agent__enabled=False, rbac__userRoles=False, rbac__whyRole=False,
                     rbac__statusRole=False, crds__install=False)  # fmt: skip
    kinds = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert kinds == {
        ("ServiceAccount", "m-controller"),
        ("ClusterRole", "m-controller"),
        ("ClusterRoleBinding", "m-controller"),
        ("Role", "m-controller"),
        ("RoleBinding", "m-controller"),
        ("Deployment", "m-controller"),
    }


def leaves(values: dict[str, Any], path: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        is_group = isinstance(value, dict) and not path
        found |= leaves(value, f"{name}.") if is_group else {f"{path}{name}"}
    return found


def test_the_guide_and_the_schema_list_each_value() -> None:
    values = yaml.safe_load((charts.CHART / "values.yaml").read_text())
    schema = json.loads((charts.CHART / "values.schema.json").read_text())["properties"]
    told = re.findall(r"`(\w+\.\w+)`", GUIDE.read_text().partition("## Values")[2])
    assert set(told) == leaves(values)
    groups = {name: group.get("properties", {}) for name, group in schema.items()}
    assert leaves(groups) == leaves(values)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("controller.replicas=many", "replicas"),
        ("controller.replica=2", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("controller.layerRules={nonsense}", "layerRules"),
        ("networkPolicy.apiServerCidrs={kubernetes}", "apiServerCidrs"),
        ("networkPolicy.apiServerPorts={}", "apiServerPorts"),
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
        charts.install(plane, chart, "mlsched", controller__podDisruptionBudget=True)
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
    jobs.submit("gang", play, **none, nodes=2, gpusPerNode=8, gangToken=True)
    until(lambda: jobs.state("gang") == "SUCCEEDED", 60)
    (pod, _) = jobs.pods().values()
    (reference,) = [one for one in pod["spec"]["containers"][0]["env"] if "valueFrom" in one]
    secrets = f"/api/v1/namespaces/{jobs.namespace}/secrets"
    name = reference["valueFrom"]["secretKeyRef"]["name"]
    until(lambda: name not in str(jobs.plane.api("GET", secrets)), 30)
    jobs.submit("long", **none, gpusPerNode=1)
    until(lambda: jobs.state("long") == "RUNNING", 30)
    jobs.cancel("long")
    until(lambda: jobs.state("long") == "CANCELLED", 30)
    spec = {"schedulerName": "mlsched", "containers": [{"name": "c", "image": "none"}]}
    jobs.plane.api("POST", jobs.pods_path, {"metadata": {"name": "foreign"}, "spec": spec})
    until(lambda: jobs.pods()["foreign"]["spec"].get("nodeName"), 30)
    until(lambda: jobs.events("gang") == ["Placed", "Started", "Completed"], 30)
