"""The control plane of the tests is a real one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import binaries
from tests.controlplane.planes import ApiError, ControlPlane
from tests.controlplane.processes import Processes, StartError
from tests.controlplane.reaper import descendants

pytestmark = pytest.mark.needs_controlplane

Until = Callable[..., Any]
ROOT = Path(__file__).parents[3]
OLDER = "1.36.3"
OLDER_MISSING = binaries.missing("kube-apiserver", kubernetes=OLDER)
GROUPS = "/apis/scheduling.k8s.io"
RUNNER = """
import json, time
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.planes import ControlPlane
plane = ControlPlane(controller_manager=True, scheduler=True)
plane.start()
Kwok(plane)
pids = [process.pid for process in plane.processes.all]
print(json.dumps([str(plane.directory), plane.processes._reaper.pid, pids]), flush=True)
time.sleep(600)
"""


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """The smallest pod that the API server takes."""
    container = {"name": "main", "image": "none"}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def test_the_version_is_the_one_that_is_pinned(plane: ControlPlane) -> None:
    assert plane.api("GET", "/version")["gitVersion"] == f"v{binaries.kubernetes_version()}"


def test_pod_groups_are_served_and_kept(
    plane: ControlPlane, new_namespace: Callable[[ControlPlane], str]
) -> None:
    assert "v1beta1" in [each["version"] for each in plane.api("GET", GROUPS)["versions"]]
    path = f"{GROUPS}/v1beta1/namespaces/{new_namespace(plane)}/podgroups"
    spec = {"schedulingPolicy": {"gang": {"minCount": 4}}}
    made = plane.api("POST", path, {"metadata": {"name": "gang"}, "spec": spec})
    assert made["spec"]["schedulingPolicy"]["gang"]["minCount"] == 4


def test_rights_are_checked_and_granted(
    plane: ControlPlane, new_namespace: Callable[[ControlPlane], str]
) -> None:
    namespace = new_namespace(plane)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    token = plane.token_of("alice")
    with pytest.raises(ApiError) as refused:
        plane.api("GET", pods, token=token)
    assert refused.value.code == 403
    plane.grant("alice", "view", namespace)
    assert plane.api("GET", pods, token=token)["items"] == []
    with pytest.raises(ApiError, match="forbidden"):
        plane.api("POST", pods, pod("one"), token=token)


def test_a_service_account_is_itself(
    plane: ControlPlane, new_namespace: Callable[[ControlPlane], str]
) -> None:
    namespace = new_namespace(plane)
    token = plane.service_account_token(namespace, "default")
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    user = plane.api("POST", path, review, token=token)["status"]["userInfo"]["username"]
    assert user == f"system:serviceaccount:{namespace}:default"


@pytest.mark.parametrize(("user", "entry"), [("bob", "token"), ("eve", "client-key-data")])
def test_a_kubeconfig_names_its_user(plane: ControlPlane, user: str, entry: str) -> None:
    path = plane.kubeconfig(user, context="here", namespace="team")
    config = json.loads(path.read_text())
    assert config["current-context"] == "here"
    assert config["contexts"][0]["context"]["namespace"] == "team"
    assert list(config["users"][0]["user"])[-1] == entry


def test_pod_security_refuses_what_a_namespace_forbids(
    plane: ControlPlane, new_namespace: Callable[[ControlPlane], str]
) -> None:
    path = f"/api/v1/namespaces/{new_namespace(plane)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.api("PATCH", path, {"metadata": {"labels": labels}})
    with pytest.raises(ApiError, match="violates PodSecurity"):
        plane.api("POST", f"{path}/pods", pod("privileged", hostNetwork=True))


def test_pods_carry_the_token_of_their_service_account(
    plane: ControlPlane, new_namespace: Callable[[ControlPlane], str]
) -> None:
    path = f"/api/v1/namespaces/{new_namespace(plane)}/pods"
    made = plane.api("POST", path, pod("one"))
    assert made["spec"]["serviceAccountName"] == "default"
    assert made["spec"]["volumes"][0]["name"].startswith("kube-api-access-")


def test_gangs_off_restart_and_compaction() -> None:
    with ControlPlane(gangs=False) as plane:
        assert [each["version"] for each in plane.api("GET", GROUPS)["versions"]] == ["v1"]
        old = plane.api("GET", "/api/v1/pods")["metadata"]["resourceVersion"]
        plane.create_namespace("kept")
        port = plane.port
        plane.stop_apiserver()
        assert not plane.is_ready()
        plane.compact()
        plane.start_apiserver()
        assert plane.port == port
        assert plane.exists("/api/v1/namespaces/kept")
        with pytest.raises(ApiError) as gone:
            plane.api("GET", f"/api/v1/pods?resourceVersion={old}&resourceVersionMatch=Exact")
        assert gone.value.code == 410


@pytest.mark.skipif(bool(OLDER_MISSING), reason=str(OLDER_MISSING))
def test_an_older_version_serves_the_gangs_of_its_time() -> None:
    with ControlPlane(kubernetes=OLDER) as plane:
        assert plane.api("GET", "/version")["gitVersion"] == f"v{OLDER}"
        assert [each["version"] for each in plane.api("GET", GROUPS)["versions"]] == [
            "v1",
            "v1alpha2",
        ]


def test_two_planes_stand_side_by_side(plane: ControlPlane) -> None:
    with ControlPlane() as other:
        other.create_namespace("only-here")
        assert other.port != plane.port
        assert not plane.exists("/api/v1/namespaces/only-here")


def test_a_paused_server_answers_again(plane: ControlPlane) -> None:
    with ControlPlane(audit=True) as paused:
        paused.apiserver.pause()
        with pytest.raises(TimeoutError):
            paused.api("GET", "/readyz", seconds=0.3)
        paused.apiserver.resume()
        assert paused.api("GET", "/api/v1/nodes")["items"] == []
        assert "/api/v1/nodes" in [each["requestURI"] for each in paused.requests()]


def test_what_does_not_start_shows_its_log() -> None:
    with Processes("mlsched-test-") as processes:
        words = [sys.executable, "-c", "raise SystemExit('the reason')"]
        ends = processes.start("ends", words)
        with pytest.raises(StartError, match=r"ends ended with 1[^$]*the reason"):
            processes.wait_until("it serves", lambda: False, ends)
        runs = processes.start("runs", [sys.executable, "-c", "import time; time.sleep(60)"])
        with pytest.raises(StartError, match=r"within 0.1 s: it serves"):
            processes.wait_until("it serves", lambda: False, runs, seconds=0.1)
        missing = processes.start("missing", ["/nowhere/program"])
        with pytest.raises(StartError, match="No such file"):
            processes.wait_until("it serves", lambda: False, missing)


def test_a_killed_runner_leaves_no_process_and_no_file(until: Until) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert runner.stdout is not None
    with runner.stdout:
        directory, reaper, pids = json.loads(runner.stdout.readline())
    assert set(pids) <= set(descendants(reaper))
    assert len(pids) == 5
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    until(lambda: not [pid for pid in [reaper, *pids] if Path(f"/proc/{pid}").exists()])
    assert not Path(directory).exists()


def test_a_killed_reaper_takes_its_processes_along(until: Until) -> None:
    with Processes("mlsched-test-") as processes:
        child = processes.start("child", [sys.executable, "-c", "import time; time.sleep(60)"])
        until(lambda: Path(f"/proc/{child.pid}").exists())
        time.sleep(0.2)
        processes._reaper.kill()
        until(lambda: not Path(f"/proc/{child.pid}").exists())
        with pytest.raises(StartError, match="has ended"):
            child.poll()
        processes.directory.joinpath("reaper.log").unlink()
        processes.directory.joinpath("child.log").unlink()
        processes.directory.rmdir()
