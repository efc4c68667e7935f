"""A controller that is killed again and again gives each device once, and finishes each start."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.controlplane.controllers import Jobs, install, start
from tests.controlplane.planes import ControlPlane

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow]

GPUS = 8
JOBS = 12
DRIVER = "gpu.mlsched.io"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims"


def add_node(plane: ControlPlane) -> None:
    """A node that says that it is ready, and a slice of its GPUs; nothing runs there."""
    plane.api("POST", "/api/v1/nodes", {"metadata": {"name": "dra-a"}})
    amounts = {"cpu": "64", "memory": "64Gi", "pods": "110"}
    ready = [{"type": "Ready", "status": "True"}]
    status = {"capacity": amounts, "allocatable": amounts, "conditions": ready}
    plane.api("PATCH", "/api/v1/nodes/dra-a/status", {"status": status})
    plane.api("PATCH", "/api/v1/nodes/dra-a", {"spec": {"taints": None}})
    spec = {
        "driver": DRIVER,
        "nodeName": "dra-a",
        "pool": {"name": "dra-a", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": f"gpu-{n}"} for n in range(GPUS)],
    }
    plane.api("POST", SLICES, {"metadata": {"name": "dra-a"}, "spec": spec})


def given(plane: ControlPlane) -> dict[str, str]:
    """The claim of each device that was given; fails on one that was given twice."""
    found: dict[str, str] = {}
    for claim in plane.api("GET", CLAIMS)["items"]:
        allocation = claim.get("status", {}).get("allocation", {})
        for result in allocation.get("devices", {}).get("results", ()):
            assert result["device"] not in found
            found[result["device"]] = claim["metadata"]["name"]
    return found


def test_each_device_is_given_once_and_each_start_is_finished(until: Callable[..., Any]) -> None:
    chance = random.Random(7)
    with ControlPlane(controller_manager=True) as plane:
        install(plane)
        add_node(plane)
        plane.create_namespace("team")
        jobs = Jobs(plane, "team")
        for number in range(JOBS):
            jobs.submit(f"job-{number}", command=["true"], image="i", gpusPerNode=1)
        for turn in range(6):
            killed = start(plane, "--lease-seconds", "1.5", name=f"mlsched-{turn}")
            begun = len(given(plane))
            until(lambda: "holds the lease" in killed.tail(), 30)  # noqa: B023
            time.sleep(chance.uniform(0.05, 0.6))
            killed.signal(signal.SIGKILL)
            assert len(given(plane)) >= begun
        last = start(plane, "--lease-seconds", "1.5")

        def are_bound() -> bool:
            nodes = [pod["spec"].get("nodeName") for pod in jobs.pods().values()]
            return nodes == ["dra-a"] * GPUS

        until(are_bound, 60)
        until(lambda: "holds the lease" in last.tail(), 30)
        claims = given(plane)
        assert sorted(claims.values()) == sorted(f"{name}-gpus" for name in jobs.pods())
        assert len(claims) == GPUS
        waiting = [name for name, state in jobs.states().items() if state == "PENDING"]
        assert len(waiting) == JOBS - GPUS
        assert last.stop(10) == 0, last.tail()
