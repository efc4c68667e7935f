"""Real nodes for a control plane of the tests: containerd, kubelet and runc; pods really run.

    with ControlPlane(controller_manager=True) as plane:
        nodes = Nodes(plane)
        nodes.add("node-a", {"mlsched.io/layer": "gpu"})     # 3 s, of which 2 unpack the image
        nodes.add("node-b")
        plane.api("POST", "/api/v1/namespaces/default/pods", pod)   # spec.nodeName: node-a
        nodes["node-a"].kubelet.pause()        # the node falls silent; its pods go on
        nodes["node-a"].crash()                # as if its power were cut

Images: ``images.PYTHON`` (Debian with python3) and what ``add(..., archives=[...])`` names; there
is no registry, so pods say ``imagePullPolicy: Never``. Pods of all nodes of a plane share one
bridge, find each other and the API server by name, and reach nothing else. They end with the plane,
also when the runner was killed. Needs root; see ``missing``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.controlplane import binaries, images
from tests.controlplane.planes import ApiError, ControlPlane
from tests.controlplane.processes import Process

CNI = Path("/usr/lib/cni")
PROGRAMS = ("kubelet", "containerd", "containerd-shim-runc-v2", "ctr")
COMMANDS = {
    "runc": "runc",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "iptables": "iptables",
}
CGROUPS = Path("/sys/fs/cgroup")
NODE_SH = Path(__file__).with_name("node.sh")
NETWORK = Path(__file__).with_name("pod_network.py")
UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"

CONTAINERD = """\
version = 3
root = "{directory}/containerd"
state = "{directory}/state"
[grpc]
  address = "{directory}/c.sock"
[ttrpc]
  address = "{directory}/t.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  cdi_spec_dirs = ["{directory}/cdi"]
  restrict_oom_score_adj = true  # runc may not lower it without CAP_SYS_RESOURCE, and dies
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{cni}"]
    conf_dir = "{network}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
"""

KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: {port}
healthzPort: 0
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
containerRuntimeEndpoint: unix://{directory}/c.sock
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
failSwapOn: false
evictionHard:
  imagefs.available: "0%"
  nodefs.available: "0%"
  nodefs.inodesFree: "0%"
  memory.available: 10Mi
podLogsDir: {directory}/log
volumePluginDir: {directory}/volumeplugins
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 5s
clusterDNS: [{gateway}]
clusterDomain: cluster.local
"""

CONFLIST = """\
{{"cniVersion": "1.0.0", "name": "mlsched", "plugins": [
  {{"type": "bridge", "bridge": "{bridge}", "isGateway": false, "ipMasq": false,
    "hairpinMode": true,
    "ipam": {{"type": "host-local", "dataDir": "{network}/ipam",
      "ranges": [[{{"subnet": "{subnet}", "gateway": "{gateway}"}}]],
      "routes": [{{"dst": "0.0.0.0/0"}}]}}}}
]}}
"""


def missing() -> str | None:
    """Why there can be no real nodes here, with what to do; None when there can."""
    if os.geteuid() != 0:
        return "real nodes need root"
    absent = sorted({package for name, package in COMMANDS.items() if not shutil.which(name)})
    if not (CNI / "bridge").exists():
        absent.append("containernetworking-plugins")
    if absent:
        return f"real nodes need {', '.join(absent)}: install them"
    if reason := binaries.missing("etcd", "kube-apiserver", "kube-controller-manager", *PROGRAMS):
        return reason
    return None if images.are_built() else f"no images in {images.folder()}: `make controlplane`"


@dataclass(frozen=True)
class Node:
    """One node that runs.

    Attributes:
        name: Name of the Node object.
        directory: Its files; ``kubelet`` in it is the node's /var/lib/kubelet, ``cdi`` holds
            descriptions of devices.
        cgroup: Control group of its daemons and pods.
    """

    plane: ControlPlane
    name: str
    directory: Path
    cgroup: str
    containerd: Process
    kubelet: Process

    def crash(self) -> None:
        """Kill everything on it at once; the Node object stays."""
        self.plane.processes.ask(do="kill_cgroup", cgroup=self.cgroup)
        self.kubelet.stop()
        self.containerd.stop()

    def ctr(self, *words: str | Path) -> str:
        """What containerd's client prints, in the namespace of the kubelet."""
        argv = [binaries.need("ctr"), "-a", self.directory / "c.sock", "-n", "k8s.io", *words]
        found = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        if found.returncode:
            raise RuntimeError(f"ctr {words[0]}: {found.stderr.strip()}")
        return found.stdout

    def add_image(self, archive: Path) -> None:
        """Import an OCI archive: 1 s for 150 MB."""
        self.ctr("image", "import", archive)


def start_kubelet(plane: ControlPlane, name: str, directory: Path, containerd: Process) -> Process:
    """The kubelet in its containerd's mount namespace."""
    argv = [
        "nsenter",
        f"--target={containerd.pid}",
        "--mount",
        "--wdns=/",
        binaries.need("kubelet"),
        f"--config={directory}/kubelet.yaml",
        f"--kubeconfig={plane.admin_kubeconfig}",
        f"--cert-dir={directory}/pki",
        f"--hostname-override={name}",
        "--cloud-provider=external",  # it refuses a loopback address: we write addresses ourselves
    ]
    return plane.processes.start(f"{name}-kubelet", argv)


class Nodes:
    """The nodes of one plane, by name; the bridge and the DNS of their pods."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.all: dict[str, Node] = {}
        self.gateway = f"10.88.{plane.number}.1"
        self.api_address = plane.service_range.replace("0/24", "1")
        self.network = plane.directory / "cni"
        self.network.mkdir()
        content = CONFLIST.format(
            bridge=plane.bridge,
            network=self.network,
            subnet=f"10.88.{plane.number}.0/24",
            gateway=self.gateway,
        )
        (self.network / "10-bridge.conflist").write_text(content)
        self._start_network()

    def __getitem__(self, name: str) -> Node:
        return self.all[name]

    def _start_network(self) -> None:
        bridge = self.plane.bridge
        self.plane.processes.undo("ip", "link", "delete", bridge)
        for words in (
            f"link add {bridge} type bridge",
            f"address add {self.gateway}/24 dev {bridge}",
            f"address add {self.api_address}/32 dev {bridge}",
            f"link set {bridge} up",
        ):
            subprocess.run(["ip", *words.split()], check=True, capture_output=True)
        argv = [sys.executable, "-I", NETWORK, self.plane.admin_kubeconfig, self.gateway]
        words = [*argv, self.api_address, str(self.plane.port)]
        names = self.plane.processes.start("pod-network", words)
        self.plane.processes.wait_until(
            "names are served", lambda: "serving" in names.tail(), names
        )

    def add(
        self, name: str, labels: Mapping[str, str] | None = None, archives: Sequence[Path] = ()
    ) -> Node:
        """Start one node; returns when it is ready.

        Args:
            name: Name of the node.
            labels: More labels.
            archives: OCI archives of images besides PAUSE and PYTHON.

        Raises:
            StartError: A daemon did not start, or the node did not get ready.
        """
        directory = self.plane.directory / name
        cgroup = f"{self.plane.cgroup}/{name}"
        for folder in ("kubelet", "state", "log", "cdi", "settings"):
            (directory / folder).mkdir(parents=True)
        make_cgroup(f"{cgroup}/daemons")
        self._write_configs(directory, cgroup)
        containerd = self._start_containerd(name, directory, cgroup)
        kubelet = start_kubelet(self.plane, name, directory, containerd)
        node = Node(self.plane, name, directory, cgroup, containerd, kubelet)
        for archive in (images.pause_archive(), images.python_archive(), *archives):
            node.add_image(archive)
        wait = self.plane.processes.wait_until
        wait(f"{name} registers", lambda: self._register(name, labels or {}), kubelet, containerd)
        wait(f"{name} is ready", lambda: self._is_ready(name), kubelet, containerd)
        self.all[name] = node
        return node

    def restart_kubelet(self, name: str) -> None:
        """A new kubelet process on a node; its pods go on."""
        node = self.all[name]
        node.kubelet.stop()
        kubelet = start_kubelet(self.plane, name, node.directory, node.containerd)
        self.all[name] = replace(node, kubelet=kubelet)

    def _write_configs(self, directory: Path, cgroup: str) -> None:
        said: dict[str, Any] = {
            "directory": directory,
            "cgroup": cgroup,
            "pause": images.PAUSE,
            "cni": CNI,
            "network": self.network,
            "gateway": self.gateway,
            "port": next(self.plane.free_ports),
        }
        (directory / "containerd.toml").write_text(CONTAINERD.format(**said))
        (directory / "kubelet.yaml").write_text(KUBELET.format(**said))

    def _start_containerd(self, name: str, directory: Path, cgroup: str) -> Process:
        for path in ("/var/lib/kubelet", "/run/netns", "/run/containerd"):
            Path(path).mkdir(parents=True, exist_ok=True)  # the node mounts its own over them
        folder = binaries.need("containerd").parent  # the shim lies beside it
        argv = ["unshare", "--mount", "--propagation=private", NODE_SH, directory]
        process = self.plane.processes.start(
            f"{name}-containerd",
            [*argv, f"{cgroup}/daemons"],
            PATH=f"{folder}:{os.environ['PATH']}:/usr/sbin:/sbin",
        )
        socket = directory / "c.sock"
        self.plane.processes.wait_until("containerd answers", socket.exists, process)
        return process

    def _register(self, name: str, labels: Mapping[str, str]) -> bool:
        """Do what a cloud's controller does for a new node: addresses, and the taint away."""
        path = f"/api/v1/nodes/{name}"
        addresses = [
            {"type": "InternalIP", "address": "127.0.0.1"},
            {"type": "Hostname", "address": name},
        ]
        try:
            body = {"metadata": {"labels": dict(labels)}, "spec": {"taints": None}}
            self.plane.api("PATCH", path, body)
            self.plane.api("PATCH", f"{path}/status", {"status": {"addresses": addresses}})
        except ApiError:
            return False
        return True

    def _is_ready(self, name: str) -> bool:
        node = self.plane.api("GET", f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def make_cgroup(name: str) -> None:
    """Make a control group in every hierarchy, with what the kernel wants set at each level."""
    tops = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else list(CGROUPS.glob("*/"))
    for top in tops:
        path = top
        for step in Path(name).parts:
            controllers = path / "cgroup.subtree_control"
            if top == CGROUPS:
                wanted = (path / "cgroup.controllers").read_text().split()
                controllers.write_text(" ".join(f"+{controller}" for controller in wanted))
            above, path = path, path / step
            path.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if top != CGROUPS and (above / file).exists():
                    (path / file).write_text((above / file).read_text())
