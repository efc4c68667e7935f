"""The command line against a real cluster: the same commands as on one machine."""

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
from tests.controlplane.controllers import Jobs
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane

pytestmark = [pytest.mark.needs_nodes, pytest.mark.slow]

SMALL = ("--image", images.PYTHON, "--cpus", "100m", "--grace", "2s")


class Commands:
    """Runs ``mlsched`` as somebody, in a namespace, with a fresh home."""

    def __init__(self, home: Path, kubeconfig: Path, namespace: str, context: str) -> None:
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "KUBECONFIG": str(kubeconfig),
            "MLSCHED_CONTEXT": context,
            "MLSCHED_NAMESPACE": namespace,
        }

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "mlsched", *words],
            env=self._env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0, **env: str) -> str:
        """What a command prints; what it tells is in ``told``."""
        running = self.start(*words, **env)
        found, self.told = running.communicate(timeout=90)
        assert running.returncode == code, (words, running.returncode, found, self.told)
        return found

    def json(self, *words: str, **given: Any) -> Any:
        """The same with ``-o json``, decoded."""
        return json.loads(self.run(words[0], "-o", "json", *words[1:], **given))


@pytest.fixture
def jobs(scheduled_nodes: Nodes, new_namespace: Callable[[ControlPlane], str]) -> Jobs:
    return Jobs(scheduled_nodes.plane, new_namespace(scheduled_nodes.plane))


@pytest.fixture
def mlsched(jobs: Jobs, tmp_path: Path) -> Commands:
    return Commands(tmp_path, jobs.plane.admin_kubeconfig, jobs.namespace, "admin")


def submit(mlsched: Commands, *words: str) -> str:
    return mlsched.run("submit", *SMALL, *words).strip()


def test_run_prints_the_output_of_a_pod_and_ends_as_it_does(mlsched: Commands) -> None:
    assert mlsched.run("run", *SMALL, "--", "python3", "-c", "print(2+3)") == "5\n"
    assert mlsched.run("run", *SMALL, "--", "sh", "-c", "echo a; exit 7", code=7) == "a\n"


def test_run_tells_why_there_is_no_output(mlsched: Commands) -> None:
    mlsched.run("run", *SMALL, "--", "no-such-program", code=127)
    assert "CommandNotFound" in mlsched.told or "not found" in mlsched.told


def test_the_ranks_of_a_gang_stand_before_their_lines(mlsched: Commands) -> None:
    words = ("--nodes", "2", "--tasks-per-node", "2", "--", "sh", "-c", "echo rank $RANK")
    found = mlsched.run("run", *SMALL, *words)
    assert sorted(found.splitlines()) == [f"[{rank}] rank {rank}" for rank in range(4)]


def test_elements_of_an_array_are_jobs(mlsched: Commands) -> None:
    command = ("sh", "-c", "echo i $MLSCHED_ARRAY_INDEX; exit $MLSCHED_ARRAY_INDEX")
    found = mlsched.run("run", *SMALL, "--name", "grid", "-a", "0-2", "--", *command, code=2)
    assert sorted(found.splitlines()) == ["[0] i 0", "[1] i 1", "[2] i 2"]
    assert mlsched.run("logs", "grid[1]") == "i 1\n"
    (row,) = mlsched.json("ls", "--all")
    assert row["array"]["states"] == {"FAILED": 2, "SUCCEEDED": 1}


def test_one_element_is_cancelled_and_the_others_go_on(mlsched: Commands) -> None:
    name = submit(mlsched, "--name", "grid", "-a", "0-2", "--", "sleep", "600")
    mlsched.run("wait", name, "--for", "running")
    assert mlsched.run("cancel", "grid[1]", "--grace", "0") == "grid[1] is being cancelled\n"
    mlsched.run("wait", "grid[1]", code=103)
    states = mlsched.json("show", "grid")["array"]["states"]
    assert states == {"RUNNING": 2, "CANCELLED": 1}
    mlsched.run("cancel", "--state", "RUNNING", "--yes", "--grace", "0")
    mlsched.run("wait", "grid", code=103)


def test_a_retried_job_has_the_output_of_each_attempt(mlsched: Commands) -> None:
    command = ("sh", "-c", "echo attempt $MLSCHED_ATTEMPT; exit 4")
    words = ("--name", "again", "--retries", "1", "--", *command)
    assert mlsched.run("run", *SMALL, *words, code=4) == "attempt 1\nattempt 2\n"
    assert mlsched.run("logs", "again") == "attempt 2\n"
    assert mlsched.run("logs", "again", "--previous") == "attempt 1\n"
    stamped = mlsched.run("logs", "again", "--timestamps", "--since", "1h")
    assert stamped.endswith("Z attempt 2\n")
    assert mlsched.json("show", "again")["attempts"][1]["exit_code"] == 4
    mlsched.run("logs", "again", "--rank", "7", code=102)


def test_logs_follow_and_take_the_tail(mlsched: Commands) -> None:
    loop = "for i in 1 2 3 4 5; do echo $i; sleep 0.3; done"
    name = submit(mlsched, "--", "sh", "-c", loop)
    assert mlsched.run("logs", "-f", name) == "1\n2\n3\n4\n5\n"
    assert mlsched.run("logs", "--tail", "2", name) == "4\n5\n"


def test_following_goes_on_when_the_api_server_restarts(mlsched: Commands, jobs: Jobs) -> None:
    loop = "for i in $(seq 60); do echo $i; sleep 0.2; done"
    running = mlsched.start("run", *SMALL, "--", "sh", "-c", loop)
    assert running.stdout is not None
    first = [running.stdout.readline() for _ in range(5)]
    jobs.plane.restart_apiserver()
    rest, told = running.communicate(timeout=90)
    assert running.returncode == 0, told
    assert [*first, *rest.splitlines(keepends=True)] == [f"{i}\n" for i in range(1, 61)]


def test_ctrl_c_leaves_the_job_running(mlsched: Commands, jobs: Jobs) -> None:
    words = ("--name", "long", "--", "sh", "-c", "echo on; sleep 100")
    running = mlsched.start("run", *SMALL, *words)
    assert running.stdout is not None
    assert running.stdout.readline() == "on\n"
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "long goes on without this terminal" in told
    assert jobs.state("long") == "RUNNING"
    assert mlsched.run("cancel", "long", "--grace", "1s") == "long is being cancelled\n"
    mlsched.run("wait", "long", "--timeout", "30s", code=103)
    assert jobs.state("long") == "CANCELLED"


def test_nothing_of_the_logs_is_left_on_this_machine(mlsched: Commands, tmp_path: Path) -> None:
    mlsched.run("run", *SMALL, "--", "echo", "private", TMPDIR=str(tmp_path))
    assert not list(tmp_path.glob("mlsched-logs-*"))


def test_why_says_what_stands_in_the_way(mlsched: Commands) -> None:
    name = mlsched.run("submit", "--image", "i:1", "--cpus", "999", "--", "true").strip()
    found = mlsched.json("why", name)
    assert found["reason"]["code"] == "NeverFits"
    assert found["unblocks"]
    (row,) = mlsched.json("ls")
    assert (row["name"], row["state"], row["reason"]) == (name, "PENDING", None)
    mlsched.run("cancel", name)


def test_a_dry_run_stores_nothing(mlsched: Commands, jobs: Jobs) -> None:
    found = mlsched.json("submit", *SMALL, "--dry-run", "--", "true")
    assert found["starts_now"]
    assert found["placement"][0]["node"] in ("node-a", "node-b")
    assert jobs.states() == {}


def test_names_and_keys_are_unique(mlsched: Commands, jobs: Jobs) -> None:
    submit(mlsched, "--name", "once", "--", "true")
    mlsched.run("submit", *SMALL, "--name", "once", "--", "true", code=1)
    assert "there is a job once" in mlsched.told
    first = submit(mlsched, "--idempotency-key", "k", "--", "true")
    assert submit(mlsched, "--idempotency-key", "k", "--", "true") == first
    assert len(jobs.states()) == 2


def test_scripts_and_environment_travel_by_the_spec_alone(
    mlsched: Commands, tmp_path: Path
) -> None:
    script = tmp_path / "hello.sh"
    script.write_text("#!/bin/sh\necho $GREETING $1 ${ONLY_HERE:-nothing}\n")
    words = ("run", *SMALL, "-e", "GREETING=hello", str(script), "--", "world")
    assert mlsched.run(*words, ONLY_HERE="secret") == "hello world nothing\n"


def test_watching_all_jobs_tells_of_new_ones(mlsched: Commands) -> None:
    earlier = submit(mlsched, "--", "sleep", "100")
    watching = mlsched.start("ls", "-w", "-o", "json")
    assert watching.stdout is not None
    while json.loads(watching.stdout.readline())["name"] != earlier:
        pass
    name = submit(mlsched, "--", "true")
    states: list[str] = []
    while "SUCCEEDED" not in states:
        event = json.loads(watching.stdout.readline())
        states += [event["state"]] if event["name"] == name else []
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=20)
    assert states[0] == "PENDING"
    mlsched.run("cancel", earlier)


def test_whoever_has_no_rights_is_told_which(jobs: Jobs, tmp_path: Path) -> None:
    kubeconfig = jobs.plane.kubeconfig("bob", namespace=jobs.namespace)
    bob = Commands(tmp_path, kubeconfig, jobs.namespace, "bob")
    bob.run("ls", code=1)
    assert f"user bob may not list mljobs.mlsched.io in the namespace {jobs.namespace}" in bob.told
    checks = {one["name"]: one["state"] for one in bob.json("doctor", code=1)}
    assert (checks["API server"], checks["rights"]) == ("ok", "fail")


def test_a_server_that_does_not_answer_is_unreachable(jobs: Jobs, tmp_path: Path) -> None:
    text = jobs.plane.admin_kubeconfig.read_text().replace(str(jobs.plane.port), "9")
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(text)
    Commands(tmp_path, kubeconfig, jobs.namespace, "admin").run("ls", code=104)


def test_the_python_api_runs_commands_in_a_cluster(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlsched as ml

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(jobs.plane.admin_kubeconfig))
    monkeypatch.setenv("MLSCHED_NAMESPACE", jobs.namespace)
    where: dict[str, Any] = {"image": images.PYTHON, "cpus": 0.1, "context": "admin"}
    job = ml.submit(["python3", "-c", "print(2+3)"], **where)
    assert job.result(60) == 0
    assert list(job.logs()) == ["5"]
    assert list(job.logs(follow=True)) == ["5"]
    assert ml.get(job.id, context="admin") == job
    with pytest.raises(ml.JobFailed):
        ml.submit(["sh", "-c", "exit 3"], **where).result(60)
    with pytest.raises(ml.SpecError, match="function"):
        ml.submit(lambda: 1, context="admin")
