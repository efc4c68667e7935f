"""Jobs on real nodes: each way in which one can end, and what people find of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.controlplane import images
from tests.controlplane.controllers import ENDED, Jobs, label
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane

pytestmark = [pytest.mark.needs_nodes, pytest.mark.slow]

Until = Callable[..., Any]

MEET = """#!/usr/bin/python3
import os, socket, time
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if os.environ["RANK"] == "0":
    met, _ = socket.create_server(("0.0.0.0", address[1])).accept()
    print("0 met", met.recv(99).decode())
    met.sendall(b"zero")
else:
    deadline = time.monotonic() + 30
    while True:
        try:
            met = socket.create_connection(address, 2)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    met.sendall(b"one")
    print("1 met", met.recv(99).decode())
"""


@pytest.fixture
def jobs(scheduled_nodes: Nodes, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    namespace = new_namespace(scheduled_nodes.plane)
    secure(scheduled_nodes.plane, namespace, "restricted")
    return Jobs(scheduled_nodes.plane, namespace)


def secure(plane: ControlPlane, namespace: str, level: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level}
    label(plane, f"/api/v1/namespaces/{namespace}", labels)


def submit(jobs: Jobs, name: str, *command: str, **spec: Any) -> None:
    small = {"image": images.PYTHON, "cpusPerTask": "100m", "graceSeconds": 2}
    jobs.submit(name, **({"command": list(command)} if command else {}), **(small | spec))


def test_a_job_prints_to_the_log_of_its_pod(jobs: Jobs, until: Until) -> None:
    submit(jobs, "sum", "python3", "-c", "print(2+3)")
    until(lambda: jobs.state("sum") == "SUCCEEDED", 60)
    assert jobs.log("sum-1-0") == "5\n"
    assert jobs.status("sum")["exitCode"] == 0
    until(lambda: jobs.events("sum") == ["Placed", "Started", "Completed"])


@pytest.mark.parametrize(
    ("command", "spec", "reason", "code"),
    [
        ("exit 3", {}, "ExitedWithError", 3),
        ("kill -SEGV $$", {}, "KilledBySignal", 139),
        ("python3 -c 'bytearray(300 << 20)'", {"memoryPerNode": "64Mi"}, "OutOfMemory", 137),
        ("sleep 60", {"timeLimitSeconds": 1}, "TimeLimitExceeded", 143),
        (None, {"command": ["no-such-program"]}, "CommandNotFound", 127),
        (None, {"command": ["/etc/passwd"]}, "NotExecutable", 126),
        ("true", {"image": "mlsched.io/nothing:1"}, None, None),
    ],
)
def test_each_end_has_its_reason(
    jobs: Jobs,
    until: Until,
    command: str | None,
    spec: dict[str, Any],
    reason: str | None,
    code: int | None,
) -> None:
    words = ("sh", "-c", command) if command else ()
    submit(jobs, "ends", *words, **spec)
    if reason is None:
        until(lambda: jobs.pods() and _waits_for(jobs, "ErrImagePull"), 60)
        jobs.cancel("ends")
        reason, code = "CancelledByUser", 143
    until(lambda: jobs.state("ends") in ENDED, 60)
    status = jobs.status("ends")
    assert (status["reason"], status.get("exitCode")) == (reason, code), status


def _waits_for(jobs: Jobs, reason: str) -> bool:
    (pod,) = jobs.pods().values()
    statuses = pod["status"].get("containerStatuses", [])
    return any(reason in str(one["state"]) or "BackOff" in str(one["state"]) for one in statuses)


def test_words_reach_the_program_as_they_were_written(jobs: Jobs, until: Until) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['A'])"
    words = ["$(HOME)", "$$", "a b", "*", "'"]
    submit(jobs, "words", "python3", "-c", code, *words, env={"A": "$(PATH) $$"})
    until(lambda: jobs.state("words") == "SUCCEEDED", 60)
    assert jobs.log("words-1-0") == f"{words} $(PATH) $$\n"


def test_a_secret_is_waited_for_and_gives_its_entries_as_variables(
    jobs: Jobs, until: Until
) -> None:
    submit(jobs, "keyed", "sh", "-c", "echo $KEY $NAME", envSecrets=["keys"], env={"NAME": "own"})
    until(lambda: jobs.pods() and _waits_for(jobs, 'secret "keys" not found'), 60)
    metadata = {"name": "keys", "namespace": jobs.namespace}
    entries = {"KEY": "5e$(HOME)", "NAME": "theirs"}
    body = {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "stringData": entries}
    jobs.plane.api("POST", f"/api/v1/namespaces/{jobs.namespace}/secrets", body)
    until(lambda: jobs.state("keyed") == "SUCCEEDED", 90)
    assert jobs.log("keyed-1-0") == "5e$(HOME) own\n"


def test_a_script_runs_by_its_own_first_line(jobs: Jobs, until: Until) -> None:
    script = "#!/usr/bin/python3\nimport sys\nprint('script', sys.argv[1:])\n"
    submit(jobs, "script", script=script, args=["a", "b"])
    until(lambda: jobs.state("script") == "SUCCEEDED", 60)
    assert jobs.log("script-1-0") == "script ['a', 'b']\n"


def test_a_gang_meets_at_its_master_address(jobs: Jobs, until: Until) -> None:
    submit(jobs, "gang", script=MEET, nodes=2, cpusPerTask="1100m")
    until(lambda: jobs.state("gang") in ENDED, 90)
    assert jobs.state("gang") == "SUCCEEDED", jobs.status("gang")
    assert jobs.log("gang-1-0") == "0 met one\n"
    assert jobs.log("gang-1-1", "rank-1") == "1 met zero\n"
    nodes = {pod["spec"]["nodeName"] for pod in jobs.pods().values()}
    assert nodes == {"node-a", "node-b"}


def test_tasks_of_one_node_share_its_address(jobs: Jobs, until: Until) -> None:
    submit(jobs, "tasks", script=MEET, tasksPerNode=2)
    until(lambda: jobs.state("tasks") == "SUCCEEDED", 60)
    assert jobs.log("tasks-1-0", "rank-1") == "1 met zero\n"


def test_the_failure_of_one_pod_ends_its_gang(jobs: Jobs, until: Until) -> None:
    code = "import os, time; time.sleep(600) if os.environ['RANK'] == '0' else exit(5)"
    submit(jobs, "gang", "python3", "-c", code, nodes=2)
    until(lambda: jobs.state("gang") == "FAILED", 60)
    assert jobs.status("gang")["exitCode"] == 5
    until(lambda: "gang-1-0" not in jobs.pods(), 20)


def test_a_cancelled_job_gets_sigterm_and_its_grace(jobs: Jobs, until: Until) -> None:
    submit(jobs, "long", "sleep", "600")
    until(lambda: jobs.state("long") == "RUNNING", 60)
    jobs.cancel("long", "1")
    until(lambda: jobs.state("long") == "CANCELLED", 30)
    assert jobs.status("long")["reason"] == "CancelledByUser"
    until(lambda: not jobs.pods(), 20)


def test_a_job_that_waits_is_cancelled_without_a_pod(jobs: Jobs, until: Until) -> None:
    submit(jobs, "huge", "true", cpusPerTask=1000)
    jobs.cancel("huge")
    until(lambda: jobs.state("huge") == "CANCELLED", 30)
    assert jobs.pods() == {}


def test_a_failed_job_is_tried_again_as_often_as_it_says(jobs: Jobs, until: Until) -> None:
    submit(jobs, "again", "sh", "-c", "exit $((MLSCHED_ATTEMPT - 2))", retries=3)
    until(lambda: jobs.state("again") in ENDED, 60)
    status = jobs.status("again")
    assert (status["state"], status["attempt"], status["retriesUsed"]) == ("SUCCEEDED", 2, 1)
    assert "Requeued" in jobs.events("again")


@pytest.mark.parametrize("verb", ["delete", "evict"])
def test_a_pod_that_others_end_is_not_the_jobs_fault(jobs: Jobs, until: Until, verb: str) -> None:
    submit(jobs, "victim", "sleep", "600", requeue=True)
    until(lambda: jobs.state("victim") == "RUNNING", 60)
    if verb == "delete":
        jobs.plane.api("DELETE", f"{jobs.pods_path}/victim-1-0")
    else:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "victim-1-0"}}
        jobs.plane.api("POST", f"{jobs.pods_path}/victim-1-0/eviction", body)
    until(lambda: "victim-2-0" in jobs.pods(), 60)
    status = jobs.status("victim")
    assert status.get("retriesUsed", 0) == 0
    expected = "deleted" if verb == "delete" else "evicted"
    assert status["attempts"][0]["cause"] == expected
    jobs.cancel("victim")
    until(lambda: jobs.state("victim") == "CANCELLED", 30)


def test_a_deleted_mljob_takes_its_pods_along(jobs: Jobs, until: Until) -> None:
    submit(jobs, "gone", "sleep", "600")
    until(lambda: jobs.state("gone") == "RUNNING", 60)
    jobs.plane.api("DELETE", f"{jobs.path}/gone")
    until(lambda: not jobs.pods(), 60)


def test_an_array_runs_after_the_job_it_waits_for(jobs: Jobs, until: Until) -> None:
    submit(jobs, "each", "sh", "-c", "echo $MLSCHED_ARRAY_INDEX", array="2-4%2", after=["first"])
    submit(jobs, "first", "true")
    until(lambda: jobs.state("each") == "SUCCEEDED", 90)
    assert [jobs.log(f"each.{index}-1-0") for index in (2, 3, 4)] == ["2\n", "3\n", "4\n"]
    assert jobs.status("each")["message"] == "3 SUCCEEDED"


def test_what_can_never_run_in_containers_fails_with_what_to_do(jobs: Jobs, until: Until) -> None:
    submit(jobs, "no-image", "true", image="")
    until(lambda: jobs.state("no-image") == "FAILED", 30)
    assert "Set spec.image" in jobs.status("no-image")["message"]
    submit(jobs, "odd", "true", array="9-1")
    until(lambda: jobs.state("odd") == "FAILED", 30)
    assert jobs.status("odd")["reason"] == "Misconfigured"


def test_a_name_that_is_taken_is_told(jobs: Jobs, until: Until) -> None:
    stranger = {
        "metadata": {"name": "taken-1-0"},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "c", "image": "none"}]},
    }
    secure(jobs.plane, jobs.namespace, "privileged")
    jobs.plane.api("POST", jobs.pods_path, stranger)
    submit(jobs, "taken", "true")
    until(lambda: jobs.state("taken") == "FAILED", 30)
    assert "exists that is not of this job" in jobs.status("taken")["message"]
    assert "taken-1-0" in jobs.pods()
