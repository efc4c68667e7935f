"""Jobs and pods of others for one run, by a seed, and how each of them must end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.controlplane.laws import Expected
from tests.controlplane.planes import ControlPlane

JOBS = "/apis/mlsched.io/v1alpha1/namespaces/{}/mljobs"
PODS = "/api/v1/namespaces/{}/pods"
GROUPS = "/apis/scheduling.k8s.io/v1beta1/namespaces/{}/podgroups"
ANY_END = ("SUCCEEDED", "FAILED", "CANCELLED")

Json = dict[str, Any]


@dataclass
class Workload:
    """What is created in a namespace, and what is done to it later.

    Attributes:
        bodies: Path and object, in the order of creation.
        later: Path and what to do, ``cancel`` or ``delete``, in the middle of the run.
        expected: How jobs must end, by name.
        gangs: Size of each foreign gang.
    """

    namespace: str
    bodies: list[tuple[str, Json]] = field(default_factory=list)
    later: list[tuple[str, str]] = field(default_factory=list)
    expected: dict[str, Expected] = field(default_factory=dict)
    gangs: dict[str, int] = field(default_factory=dict)

    def add_job(self, name: str, wanted: Expected, env: Json | None = None, **spec: Any) -> None:
        """An MLJob that KWOK plays by its environment."""
        body = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "metadata": {"name": name},
            "spec": {
                "command": ["train"],
                "env": env or {"RUN_FOR": "200ms"},
                "graceSeconds": 1,
                **spec,
            },
        }
        self.bodies.append((JOBS.format(self.namespace), body))
        self.expected[name] = wanted

    def add_pod(self, name: str, gang: str = "", size: int = 0, **more: Any) -> None:
        """A pod of others; of a gang by the labels of Kueue, unless ``more`` says otherwise."""
        labels = {}
        if gang:
            labels["tests/gang"] = gang
            self.gangs[gang] = size
            if not more:
                labels["kueue.x-k8s.io/pod-group-name"] = gang
        annotations = {"mlsched.io/run-for": "300ms"}
        if gang and not more:
            annotations["kueue.x-k8s.io/pod-group-total-count"] = str(size)
        resources = {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "nvidia.com/gpu": "1"}}
        container = {"name": "main", "image": "none", "resources": resources}
        spec = {
            "schedulerName": "mlsched",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            **more,
        }
        metadata = {"name": name, "labels": labels, "annotations": annotations}
        self.bodies.append((PODS.format(self.namespace), {"metadata": metadata, "spec": spec}))

    def add_core_gang(self, name: str, size: int) -> None:
        """Pods of a PodGroup of the core API."""
        policy = {"schedulingPolicy": {"gang": {"minCount": size}}}
        body = {"metadata": {"name": name}, "spec": policy}
        self.bodies.append((GROUPS.format(self.namespace), body))
        for index in range(size):
            group = {"podGroupName": name}
            self.add_pod(f"{name}-{index}", name, size, schedulingGroup=group)

    def do_later(self, name: str, what: str) -> None:
        self.later.append((f"{JOBS.format(self.namespace)}/{name}", what))


def disturb(plane: ControlPlane, path: str, what: str) -> None:
    """Cancel or delete one job."""
    if what == "cancel":
        plane.api("PATCH", path, {"metadata": {"annotations": {"mlsched.io/cancel": "1"}}})
    else:
        plane.api("DELETE", path)


def mixed(namespace: str, seed: int) -> Workload:
    """About twelve jobs of all kinds, with pods of others."""
    chance = random.Random(seed)
    work = Workload(namespace)
    run = {"RUN_FOR": f"{chance.choice((50, 150, 400))}ms"}
    work.add_job("single", Expected(), run, gpusPerNode=chance.choice((0, 1, 2)))
    work.add_job("wide", Expected(), run, nodes=2, gpusPerNode=chance.choice((1, 3)))
    work.add_job("gang", Expected(), run, nodes=chance.choice((3, 4)), gpusPerNode=2)
    work.add_job("tasks", Expected(), run, nodes=2, tasksPerNode=2, gpusPerNode=2)
    flaky = {**run, "EXIT_CODE_1": "3"}
    work.add_job("flaky", Expected(retries=1), flaky, retries=2)
    failing = {**run, "EXIT_CODE": "7"}
    work.add_job("failing", Expected(("FAILED",), 7, 1), failing, retries=1, gpusPerNode=1)
    work.add_job("failgang", Expected(("FAILED",), 9, 0), {**run, "EXIT_CODE": "9"}, nodes=2)
    work.add_job("limited", Expected(("FAILED",)), {"X": "1"}, timeLimitSeconds=1)
    work.add_job("array", Expected(), run, array="0-3%2", gpusPerNode=1)
    work.add_job("victim", Expected(("CANCELLED",)), {"X": "1"}, nodes=2, gpusPerNode=1)
    work.add_job("quick", Expected(("CANCELLED", "SUCCEEDED")), run, gpusPerNode=1)
    work.add_job("gone", Expected(ANY_END), {"X": "1"}, nodes=chance.choice((1, 3)))
    work.add_job("after", Expected(), run, after=["failing:any"])
    work.later = []
    for name, what in (("victim", "cancel"), ("quick", "cancel"), ("gone", "delete")):
        work.do_later(name, what)
    work.add_pod("solo")
    size = chance.choice((2, 3))
    for index in range(size):
        work.add_pod(f"kueue-{index}", "kueue", size)
    work.add_core_gang("core", 2)
    chance.shuffle(work.later)
    return work


def small(namespace: str) -> Workload:
    """One of each that has writes of its own, for crashes between any two of them."""
    work = Workload(namespace)
    run = {"RUN_FOR": "100ms"}
    work.add_job("gang", Expected(), run, nodes=2, gpusPerNode=2)
    work.add_job("flaky", Expected(retries=1), {**run, "EXIT_CODE_1": "3"}, retries=1)
    work.add_job("array", Expected(), run, array="0-1", gpusPerNode=1)
    work.add_job("victim", Expected(("CANCELLED",)), {"X": "1"}, nodes=2)
    work.add_job("gone", Expected(ANY_END), {"X": "1"}, nodes=2)
    work.do_later("victim", "cancel")
    work.do_later("gone", "delete")
    for index in range(2):
        work.add_pod(f"kueue-{index}", "kueue", 2)
    return work
