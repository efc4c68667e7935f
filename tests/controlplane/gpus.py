"""GPUs on the real nodes of the tests: a fake driver, and the plugins that give its GPUs to pods.

    gpus = Gpus(nodes["node-a"], 4, library)    # a driver with four H100s
    gpus.start_device_plugin()                  # nvidia.com/gpu: 4 in the node's status
    gpus.start_agent()                          # publishes the GPUNode
    gpus.say(*machine(4), "fail * 1 15")        # what the driver says from now on: one is lost

In the pods the fake library is libnvidia-ml.so.1 and answers from the node's state file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.controlplane import images
from tests.controlplane.controllers import Jobs
from tests.controlplane.nodes import Node
from tests.controlplane.planes import ControlPlane
from tests.controlplane.plugins import kubelet_apis
from tests.controlplane.processes import Process
from tests.fake_nvml import build as fake_nvml

LIBRARY_IN_POD = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
STATE_IN_POD = "/run/fake-nvml"
LOOK = """
import ctypes, os, time
nvml = ctypes.CDLL("libnvidia-ml.so.1")
assert nvml.nvmlInit_v2() == 0
for uuid in os.environ["NVIDIA_VISIBLE_DEVICES"].split(","):
    device = ctypes.c_void_p()
    assert nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) == 0
    print(uuid, flush=True)
time.sleep(float(os.environ["STAY_S"]))
"""
"""Prints the UUIDs of the GPUs that a pod was given, once its driver has found each of them."""

GPU_NODES = "/apis/mlsched.io/v1alpha1/gpunodes"


def look_at_gpus(jobs: Jobs, name: str, gpus: int, stay_s: float = 0, **spec: Any) -> None:
    """Submit a job that prints the UUIDs of its GPUs, and stays for a while."""
    small = {"image": images.PYTHON, "cpusPerTask": "100m", "graceSeconds": 1}
    words = {"command": ["python3", "-c", LOOK], "env": {"STAY_S": str(stay_s)}}
    jobs.submit(name, gpusPerNode=gpus, **(small | words | spec))


def start_agent(
    plane: ControlPlane,
    node: str,
    pod_resources: Path,
    library: Path,
    state: Path,
    *,
    period_s: float = 0.5,
    heartbeat_s: float = 300,
) -> Process:
    """The node agent of mlsched as a process of a plane, on a fake driver."""
    argv = [sys.executable, "-m", "mlsched", "agent", "--node", node]
    argv += ["--pod-resources", str(pod_resources)]
    argv += ["--kubeconfig", str(plane.admin_kubeconfig)]
    argv += ["--period", str(period_s), "--heartbeat", str(heartbeat_s)]
    env = {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML": str(state)}
    return plane.processes.start(f"{node}-agent", argv, **env)


class Gpus:
    """The GPUs of one node; everything ends with its plane.

    Args:
        node: Where they are.
        count: How many.
        library: The fake library.
    """

    def __init__(self, node: Node, count: int, library: Path) -> None:
        self.node = node
        self.uuids = [fake_nvml.uuid_of(index) for index in range(count)]
        self.library = library
        self.folder = node.directory / "driver"
        self.folder.mkdir()
        self.state = self.folder / "state"
        self.unhealthy = node.directory / "unhealthy"
        self.say(*fake_nvml.machine(count))
        self._processes = node.plane.processes
        self.agent: Process | None = None

    def say(self, *lines: str) -> None:
        """Replace everything that the driver says."""
        fake_nvml.write_state(self.state, lines)

    def _start(self, plugin: str, *words: str | Path) -> Process:
        """One of the plugins; returns when it has registered."""
        apis = kubelet_apis.find()
        assert apis is not None, kubelet_apis.missing()
        argv = [sys.executable, "-m", f"tests.controlplane.plugins.{plugin}"]
        argv += ["--apis", str(apis), "--kubelet", str(self.node.directory / "kubelet")]
        argv += ["--mount", f"{self.library}:{LIBRARY_IN_POD}"]
        argv += ["--mount", f"{self.folder}:{STATE_IN_POD}"]
        argv += ["--env", f"FAKE_NVML={STATE_IN_POD}/state", *map(str, words)]
        process = self._processes.start(f"{self.node.name}-{plugin}", argv)
        self._processes.wait_until(
            f"{plugin} registers", lambda: "registered" in process.tail(), process
        )
        return process

    def start_device_plugin(self) -> Process:
        """Offer them as nvidia.com/gpu; returns when the node's status says so."""
        ids = ",".join(self.uuids)
        process = self._start("device_plugin", "--ids", ids, "--unhealthy", self.unhealthy)
        self._processes.wait_until(
            "the GPUs are allocatable", lambda: self.allocatable() == len(self.uuids), process
        )
        return process

    def start_dra_plugin(self) -> Process:
        """Offer them by ResourceSlices of gpu.mlsched.io."""
        plane = self.node.plane
        words = ["--node", self.node.name, "--kubeconfig", plane.admin_kubeconfig]
        cdi = self.node.directory / "cdi"
        uuids = ",".join(self.uuids)
        return self._start("dra_plugin", *words, "--cdi", cdi, "--uuids", uuids)

    def start_agent(self, period_s: float = 0.5, heartbeat_s: float = 300) -> None:
        """Start the node agent of mlsched, as ``agent``."""
        sock = self.node.directory / "kubelet" / "pod-resources" / "kubelet.sock"
        where = (self.node.plane, self.node.name, sock)
        self.agent = start_agent(
            *where, self.library, self.state, period_s=period_s, heartbeat_s=heartbeat_s
        )

    def stop_agent(self) -> None:
        """End the agent; it must say that it was asked to."""
        assert self.agent is not None
        assert self.agent.stop(10) == 0, self.agent.tail()

    def allocatable(self) -> int:
        """What the kubelet says that pods can have."""
        found = self.node.plane.api("GET", f"/api/v1/nodes/{self.node.name}")
        return int(found["status"]["allocatable"].get("nvidia.com/gpu", 0))

    def published(self) -> dict[str, Any]:
        """The status of the node's GPUNode; empty while there is none."""
        path = f"{GPU_NODES}/{self.node.name}"
        if not self.node.plane.exists(path):
            return {}
        found: dict[str, Any] = self.node.plane.api("GET", path).get("status", {})
        return found
