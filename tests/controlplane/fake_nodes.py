"""Fake nodes by KWOK: thousands of nodes and pods, without a container.

    with ControlPlane(lifted=True) as plane:
        kwok = Kwok(plane)
        names = kwok.add_nodes(1000, gpus=8)                # 2 s
        plane.api("POST", "/api/v1/namespaces/default/pods", pod)   # spec.nodeName: names[0]

A pod runs at once and until it is deleted. Annotations of the pod say more: ``mlsched.io/run-for:
3.5s`` ends it after that time with the code ``mlsched.io/exit-code``; ``mlsched.io/start-after``
and ``mlsched.io/stop-after`` delay its start and its end on deletion. A deleted pod tells 143 as
its containers' exit code before it goes. See ``stages.yaml``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.controlplane import binaries
from tests.controlplane.planes import ControlPlane

STAGES = Path(__file__).with_name("stages.yaml")
MARK = "kwok.x-k8s.io/node"
POD_ADDRESSES = "10.128.0.0/9"
GPU_LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
}
HEALTHY = {
    "Ready": "True",
    "MemoryPressure": "False",
    "DiskPressure": "False",
    "PIDPressure": "False",
}


class Kwok:
    """KWOK on one plane; it plays the nodes that ``add_nodes`` makes, and no other."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.count = 0
        port = next(plane.free_ports)
        argv = [
            binaries.need("kwok"),
            f"--kubeconfig={plane.admin_kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={MARK}=fake",
            "--node-lease-duration-seconds=0",
            f"--server-address=127.0.0.1:{port}",
            f"--cidr={POD_ADDRESSES}",
            "--v=WARN",
        ]
        self.process = plane.processes.start("kwok", argv)

    def add_nodes(
        self,
        count: int,
        *,
        gpus: int = 8,
        labels: Mapping[str, str] | None = None,
        prefix: str = "fake-",
        resources: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Make nodes that are ready from the first moment; their names.

        Args:
            count: How many.
            gpus: GPUs of each, with the labels of H100s; none without.
            labels: More labels, of each.
            prefix: Start of the names, before a number that goes on from call to call.
            resources: Other amounts than 96 CPUs, 1 TiB and 250 pods.
        """
        first, self.count = self.count, self.count + count
        names = [f"{prefix}{number}" for number in range(first, self.count)]
        bodies = [node(name, gpus, labels or {}, resources or {}) for name in names]
        self.plane.create_all("/api/v1/nodes", bodies)
        return names


def node(
    name: str, gpus: int, labels: Mapping[str, str], resources: Mapping[str, str]
) -> dict[str, Any]:
    """A node as its kubelet would register it, ready."""
    amounts = {"cpu": "96", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "250"}
    own = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
        own |= {**GPU_LABELS, "nvidia.com/gpu.count": str(gpus)}
    amounts |= resources
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    return {
        "metadata": {"name": name, "labels": own | dict(labels), "annotations": {MARK: "fake"}},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [{"type": "Hostname", "address": name}],
            "conditions": [
                {"type": kind, "status": status, "reason": "Fake", **times}
                for kind, status in HEALTHY.items()
            ],
        },
    }
