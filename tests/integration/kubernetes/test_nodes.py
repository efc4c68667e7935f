"""Pods on the real nodes of the tests really run, and nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import images
from tests.controlplane.nodes import Node, Nodes
from tests.controlplane.planes import ApiError, ControlPlane
from tests.controlplane.reaper import cgroup_directories, descendants

pytestmark = [pytest.mark.needs_nodes, pytest.mark.slow]

Until = Callable[..., Any]
Namespace = Callable[[ControlPlane], str]
ROOT = Path(__file__).parents[3]
ENDED = ("Succeeded", "Failed")
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
RUNNER = """
import json, time
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane
from tests.integration.kubernetes.test_nodes import Pods
plane = ControlPlane(controller_manager=True)
plane.start()
nodes = Nodes(plane)
nodes.add("node-k")
pods = Pods(nodes, "default")
pods.create("sleeps", "node-k", "import time; time.sleep(600)")
while pods.phase("sleeps") != "Running":
    time.sleep(0.1)
said = [str(plane.directory), plane.processes._reaper.pid, plane.cgroup, plane.bridge]
print(json.dumps(said), flush=True)
time.sleep(600)
"""


class Pods:
    """Python scripts as restricted pods of one namespace."""

    def __init__(self, nodes: Nodes, namespace: str) -> None:
        self.plane = nodes.plane
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name: str, node: str, script: str, **spec: Any) -> None:
        """Start a script on a node, with 64 MiB."""
        container = {
            "name": "main",
            "image": images.PYTHON,
            "imagePullPolicy": "Never",
            "command": ["python3", "-u", "-c", script],
            "securityContext": RESTRICTED,
            "resources": {"limits": {"memory": "64Mi"}},
        }
        fixed = {"nodeName": node, "restartPolicy": "Never", "containers": [container]}
        body = {
            "metadata": {"name": name, "labels": {"app": name.partition("-")[0]}},
            "spec": fixed | spec,
        }
        self.plane.api("POST", self.path, body)

    def phase(self, name: str) -> str:
        """Phase of a pod."""
        return str(self.plane.api("GET", f"{self.path}/{name}")["status"]["phase"])

    def end(self, name: str) -> tuple[int, str]:
        """Exit code of a pod that has ended, and the reason."""
        status = self.plane.api("GET", f"{self.path}/{name}")["status"]
        ended = status["containerStatuses"][0]["state"]["terminated"]
        return ended["exitCode"], ended["reason"]

    def log(self, name: str) -> str:
        """What a pod has written."""
        return str(self.plane.api("GET", f"{self.path}/{name}/log"))


@pytest.fixture
def pods(real_nodes: Nodes, new_namespace: Namespace) -> Pods:
    return Pods(real_nodes, new_namespace(real_nodes.plane))


def test_exit_code_log_user_and_seccomp_filter(pods: Pods, until: Until) -> None:
    plane = pods.plane
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.api("PATCH", f"/api/v1/namespaces/{pods.namespace}", {"metadata": {"labels": labels}})
    script = """
import os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(os.getuid(), status["Seccomp"].strip(), status["CapEff"].strip())
raise SystemExit(3)
"""
    pods.create("ends", "node-a", script)
    until(lambda: pods.phase("ends") in ENDED)
    assert pods.end("ends") == (3, "Error")
    assert pods.log("ends").split() == ["1000", "2", "0" * 16]


def test_too_much_memory_is_told(pods: Pods, until: Until) -> None:
    pods.create("grows", "node-b", "kept = bytearray(10**9)")
    until(lambda: pods.phase("grows") in ENDED)
    assert pods.end("grows") == (137, "OOMKilled")


@pytest.mark.parametrize(("heeds", "code"), [(True, 9), (False, 137)])
def test_a_deleted_pod_gets_sigterm_and_its_grace(
    pods: Pods, until: Until, heeds: bool, code: int
) -> None:
    handler = "lambda *_: sys.exit(9)" if heeds else "lambda *_: print('no')"
    script = f"""
import signal, sys, time
signal.signal(signal.SIGTERM, {handler})
print("ready")
while True:
    time.sleep(0.1)
"""
    pods.create("stays", "node-a", script)
    until(lambda: pods.phase("stays") == "Running" and "ready" in pods.log("stays"))
    path = f"{pods.path}/stays"
    pods.plane.api("PATCH", path, {"metadata": {"finalizers": ["mlsched.io/seen"]}})
    pods.plane.api("DELETE", path, {"gracePeriodSeconds": 2})
    until(lambda: pods.phase("stays") in ENDED)
    assert pods.end("stays")[0] == code
    pods.plane.api("PATCH", path, {"metadata": {"finalizers": None}})
    until(lambda: not pods.plane.exists(path))


def test_pods_on_two_nodes_meet_by_the_name_of_a_headless_service(pods: Pods, until: Until) -> None:
    service = {
        "metadata": {"name": "gang"},
        "spec": {"clusterIP": "None", "selector": {"app": "rank"}},
    }
    pods.plane.api("POST", f"/api/v1/namespaces/{pods.namespace}/services", service)
    first = """
import socket
line, _ = socket.create_server(("", 5000)).accept()
print(line.recv(100).decode())
"""
    second = f"""
import socket, time
for _ in range(200):
    try:
        line = socket.create_connection(("rank-0.gang.{pods.namespace}.svc", 5000))
    except OSError:
        time.sleep(0.1)
    else:
        break
line.send(socket.gethostname().encode())
"""
    for name, node, script in (("rank-0", "node-a", first), ("rank-1", "node-b", second)):
        pods.create(name, node, script, hostname=name, subdomain="gang")
    until(lambda: pods.phase("rank-0") in ENDED)
    assert pods.log("rank-0").strip() == "rank-1"


def test_a_pod_reaches_the_api_server_as_its_service_account(pods: Pods, until: Until) -> None:
    pods.plane.grant(f"system:serviceaccount:{pods.namespace}:default", "view", pods.namespace)
    script = """
import os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
token, namespace = (open(folder + name).read() for name in ("token", "namespace"))
tls = ssl.create_default_context(cafile=folder + "ca.crt")
for host in ("kubernetes.default.svc", os.environ["KUBERNETES_SERVICE_HOST"]):
    url = f"https://{host}/api/v1/namespaces/{namespace}/pods/asks"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
    print(urllib.request.urlopen(request, context=tls).status)
"""
    pods.create("asks", "node-a", script)
    until(lambda: pods.phase("asks") in ENDED)
    assert pods.log("asks").split() == ["200", "200"]


def test_restarts_of_kubelet_and_api_server_leave_pods_alone(
    real_nodes: Nodes, pods: Pods, until: Until
) -> None:
    pods.create("goes-on", "node-b", "import time\nfor n in range(60):\n print(n); time.sleep(.1)")
    until(lambda: pods.phase("goes-on") == "Running")
    real_nodes.restart_kubelet("node-b")
    real_nodes.plane.restart_apiserver()
    until(lambda: pods.phase("goes-on") in ENDED)
    assert pods.end("goes-on") == (0, "Completed")
    assert pods.log("goes-on").split() == [str(n) for n in range(60)]


def test_an_image_of_ones_own(real_nodes: Nodes, pods: Pods, until: Until, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "hello.py").write_text("import os\nprint('hello', os.environ['WHO'])\n")
    above = images.layer(folder, tmp_path / "layer.tar", at="opt/app")
    layers = [images.python_layer(), above]
    archive = images.pack(
        "mlsched.io/hello:1", tmp_path / "hello.tar", layers, ["python3"], {"WHO": "you"}
    )
    real_nodes["node-a"].add_image(archive)
    container = {
        "name": "main",
        "image": "mlsched.io/hello:1",
        "imagePullPolicy": "Never",
        "args": ["/opt/app/hello.py"],
    }
    pods.create("greets", "node-a", "", containers=[container])
    until(lambda: pods.phase("greets") in ENDED)
    assert pods.log("greets").strip() == "hello you"


def processes_below(node: Node) -> list[str]:
    """Processes in the control groups of a node."""
    files = (path / "cgroup.procs" for path in cgroup_directories(node.cgroup))
    return [pid for file in files for pid in file.read_text().split()]


def test_a_node_without_power_runs_nothing(
    real_nodes: Nodes, new_namespace: Namespace, until: Until
) -> None:
    node = real_nodes.add("node-c", {"mlsched.io/layer": "gpu"})
    pods = Pods(real_nodes, new_namespace(real_nodes.plane))
    pods.create("lost", "node-c", "import time; time.sleep(600)")
    until(lambda: pods.phase("lost") == "Running")
    node.crash()
    until(lambda: not processes_below(node))
    assert pods.phase("lost") == "Running"
    with pytest.raises(ApiError):
        pods.log("lost")
    pods.plane.api("DELETE", f"{pods.path}/lost", {"gracePeriodSeconds": 0})
    pods.plane.api("DELETE", "/api/v1/nodes/node-c")


def test_a_killed_runner_leaves_no_pod_mount_or_network(until: Until) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert runner.stdout is not None
    with runner.stdout:
        directory, reaper, cgroup, bridge = json.loads(runner.stdout.readline())
    pids = [reaper, *descendants(reaper)]
    assert len(pids) > 8
    assert cgroup_directories(cgroup)
    assert Path(f"/sys/class/net/{bridge}").exists()
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], 60)
    assert not Path(directory).exists()
    assert not cgroup_directories(cgroup)
    assert not Path(f"/sys/class/net/{bridge}").exists()
    assert directory not in Path("/proc/mounts").read_text()
