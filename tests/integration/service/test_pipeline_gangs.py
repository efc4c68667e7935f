"""Pipelines on clusters that are jobs, on one machine: published, cancelled, killed, kept to us."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlsched_pipelines import open_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WAIT_S_MAX = 240

FILE = """
import os, time
import pyarrow as pa
import pyarrow.compute as pc
from mlsched_pipelines import Plan, csv

SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.float64())])

def scale(batch):
    while batch.column("id")[0].as_py() >= 500 and os.path.exists("gate"):
        open("waits", "w").close()
        time.sleep(0.05)
    return {"id": batch.column("id"), "value": pc.multiply(batch.column("value"), 2.0)}

def daily(dataset: str, interval: str = "") -> Plan:
    rows = Plan.scan(csv("in.csv", SCHEMA, split_bytes=2000)).map_batches(scale, schema=SCHEMA)
    return rows.write(dataset)
"""


def write_project(path: Path) -> None:
    """A directory with the pipeline and its input."""
    path.mkdir()
    (path / "rides.py").write_text(FILE)
    lines = [f"{i},{i / 8}" for i in range(1000)]
    (path / "in.csv").write_text("id,value\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def local_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of what the local engine publishes."""
    path = tmp_path_factory.mktemp("local") / "project"
    write_project(path)
    words = ["pipeline", "run", "rides.py:daily", "--set", "dataset=out"]
    env = {**os.environ, "HOME": str(path), "XDG_STATE_HOME": str(path / "state")}
    command = [sys.executable, "-m", "mlsched", *words]
    subprocess.run(command, cwd=path, env=env, check=True, capture_output=True, timeout=WAIT_S_MAX)
    return str(open_dataset(path / "out").digest)


class Project:
    """A pipeline in a directory of its own, submitted to the service of a home of its own."""

    def __init__(self, home: Any, path: Path) -> None:
        self.home, self.path = home, path
        write_project(path)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command line in the project's directory, to its end."""
        command = [sys.executable, "-m", "mlsched", *words]
        return subprocess.run(
            command, cwd=self.path, env=self.home.env, text=True, capture_output=True,
            timeout=WAIT_S_MAX, check=False,
        )  # fmt: skip

    def submit(self, dataset: str, *options: str) -> dict[str, Any]:
        """Submit it; the JOB object."""
        words = ("pipeline", "submit", "rides.py:daily", "--set", f"dataset={dataset}", *options)
        found = self.run(*words, "--cpus-per-node", "0.5", "-o", "json")
        assert found.returncode == 0, found.stderr
        return dict(json.loads(found.stdout))

    def logs(self, job: dict[str, Any]) -> str:
        """What all ranks have printed, and what is known of the job, for messages."""
        found = self.run("logs", job["name"])
        return found.stdout + found.stderr + json.dumps(self.home.show(job["name"]))

    def log(self, job: dict[str, Any], rank: int = 0) -> str:
        """What a rank has printed."""
        found = self.run("logs", job["name"], "--rank", str(rank))
        return found.stdout + found.stderr

    def launch(self, job: dict[str, Any], attempt: int = 1) -> dict[str, Any]:
        """The launch document of an attempt, which only we can read."""
        path = self.home.paths.state_dir / "jobs" / job["id"] / str(attempt) / "launch.json"
        assert path.stat().st_mode & 0o077 == 0
        return dict(json.loads(path.read_text()))

    def processes(self, job: dict[str, Any]) -> list[psutil.Process]:
        """All processes of a job, by their environment."""
        wanted = f"/jobs/{job['id']}/"
        found = []
        for process in psutil.process_iter():
            try:
                if wanted in process.environ().get("MLSCHED_ATTEMPT_DIR", "") + "/":
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def project(home: Any, tmp_path: Path) -> Project:
    return Project(home, tmp_path / "project")


@pytest.fixture(params=["dask", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def run_until_it_waits(
    project: Project, engine: str, poll: Callable[..., Any], *options: str
) -> dict[str, Any]:
    """A job whose tasks of the second half wait for a gate to open."""
    (project.path / "gate").touch()
    job = project.submit("out", "--engine", engine, "--nodes", "2", *options)
    state = lambda: project.home.show(job["name"])["state"]  # noqa: E731
    waits = (project.path / "waits").exists
    poll(lambda: waits() or state() in ("FAILED", "SUCCEEDED") or None, WAIT_S_MAX)
    assert waits(), project.logs(job)
    return job


def test_a_gang_publishes_what_the_local_engine_does(
    project: Project, engine: str, local_digest: str
) -> None:
    job = project.submit("out", "--engine", engine, "--nodes", "3")
    ended = project.home.wait(job["name"], deadline_s=WAIT_S_MAX)
    assert ended["state"] == "SUCCEEDED", project.logs(job)
    assert open_dataset(project.path / "out").digest == local_digest
    summary = json.loads(project.run("logs", job["name"], "--rank", "0").stdout)
    assert (summary["state"], summary["counts"]["rows_out"]) == ("SUCCEEDED", 1000)
    assert project.processes(job) == []


def test_one_node_is_a_cluster_too(project: Project) -> None:
    job = project.submit("out", "--engine", "dask", "--nodes", "1")
    ended = project.home.wait(job["name"], deadline_s=WAIT_S_MAX)
    assert ended["state"] == "SUCCEEDED", project.logs(job)


def test_a_failed_task_fails_the_job_with_the_users_words(project: Project) -> None:
    file = project.path / "rides.py"
    file.write_text(
        FILE.replace("    return {", "    raise ValueError('no such ride')\n    return {")
    )
    job = project.submit("out", "--engine", "dask", "--nodes", "2")
    ended = project.home.wait(job["name"], deadline_s=WAIT_S_MAX)
    assert (ended["state"], ended["exit_code"]) == ("FAILED", 1), project.log(job)
    assert "no such ride" in project.log(job)


def test_it_keeps_to_itself_and_ends_within_its_grace(
    project: Project, engine: str, poll: Callable[..., Any]
) -> None:
    job = run_until_it_waits(project, engine, poll)
    launch = project.launch(job)
    token = launch["ranks"][0]["env"]["MLSCHED_GANG_TOKEN"]
    assert len(bytes.fromhex(token)) == 32
    processes = project.processes(job)
    assert len(processes) > 4
    sockets = [one for each in processes for one in each.net_connections("inet")]
    listening = {
        one.laddr.ip.removeprefix("::ffff:") for one in sockets if one.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert token not in " ".join(word for each in processes for word in each.cmdline())
    if engine == "dask":
        check_it_refuses_strangers(project, launch["master_port"])

    project.home.client().call("cancel", jobs=[job["name"]])
    ended = project.home.wait(job["name"], deadline_s=25)
    assert ended["state"] == "CANCELLED"
    assert project.processes(job) == []
    (run,) = json.loads(project.run("pipeline", "ls", "--all", "-o", "json").stdout)
    assert (run["state"], run["job"]) == ("INTERRUPTED", job["id"])
    told = [project.log(job, 0), project.log(job, 1), json.dumps(project.home.show(job["name"]))]
    assert token not in "".join(told)
    for file in project.home.paths.state_dir.glob("state.db*"):
        assert token.encode() not in file.read_bytes()


def check_it_refuses_strangers(project: Project, port: int) -> None:
    """Neither a client without a certificate nor one with another token gets in."""
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        stranger.wrap_socket(plain) as secured,
        pytest.raises(ssl.SSLError),
    ):
        secured.recv(1)
    code = (
        "from mlsched_pipelines.members import Member, dask, private_folder\n"
        "from mlsched_pipelines.starting import start_engine\n"
        f"own = Member(0, 2, '127.0.0.1', {port}, '127.0.0.1')\n"
        "with private_folder() as folder:\n"
        "    start_engine(dask.configure(own, folder))\n"
    )
    env = {**project.home.env, "MLSCHED_GANG_TOKEN": "00" * 32}
    other = subprocess.run(
        [sys.executable, "-c", code], env=env, text=True, capture_output=True, check=False
    )
    assert "No Dask scheduler answers" in other.stderr


def test_a_worker_that_is_killed_costs_an_attempt_and_no_task_that_was_done(
    project: Project, engine: str, local_digest: str, poll: Callable[..., Any]
) -> None:
    job = run_until_it_waits(project, engine, poll, "--retries", "1")
    (worker,) = [
        one
        for one in project.processes(job)
        if one.environ().get("RANK") == "1" and "member" in one.cmdline()
    ]
    first = project.launch(job)["ranks"][0]["env"]["MLSCHED_GANG_TOKEN"]
    os.kill(worker.pid, signal.SIGKILL)
    (project.path / "gate").unlink()
    ended = project.home.wait(job["name"], deadline_s=WAIT_S_MAX)
    assert (ended["state"], ended["attempt"]) == ("SUCCEEDED", 2), project.logs(job)
    assert project.launch(job, 2)["ranks"][0]["env"]["MLSCHED_GANG_TOKEN"] != first
    assert open_dataset(project.path / "out").digest == local_digest
    summary = json.loads(project.log(job)[project.log(job).index("{") :])
    assert summary["tasks_resumed"] > 0


def test_other_ranks_end_with_a_rank_0_that_is_killed(
    project: Project, poll: Callable[..., Any]
) -> None:
    job = run_until_it_waits(project, "dask", poll)
    (driver,) = [
        one
        for one in project.processes(job)
        if one.environ().get("RANK") == "0" and "member" in one.cmdline()
    ]
    os.kill(driver.pid, signal.SIGKILL)
    ended = project.home.wait(job["name"], deadline_s=60)
    assert ended["state"] == "FAILED"
    assert project.processes(job) == []


def test_a_retry_of_the_run_submits_its_job_again(
    project: Project, engine: str, poll: Callable[..., Any], local_digest: str
) -> None:
    nodes = {"dask": "2", "ray": "1"}[engine]
    job = run_until_it_waits(project, engine, poll, "--nodes", nodes)
    run = json.loads(project.run("pipeline", "show", "daily", "-o", "json").stdout)
    assert (run["state"], run["job"]) == ("RUNNING", job["id"])
    refused = project.run("pipeline", "retry", run["id"])
    assert (refused.returncode, f"mlsched cancel {job['id']}" in refused.stderr) == (1, True)
    project.run("cancel", job["name"])
    project.home.wait(job["name"], deadline_s=WAIT_S_MAX)
    (project.path / "gate").unlink()
    refused = project.run("pipeline", "retry", run["id"], "--workers", "2")
    assert (refused.returncode, "--engine local" in refused.stderr) == (2, True)
    again = project.run("pipeline", "retry", run["id"], "-o", "json")
    assert f"{run['id']} was the job {job['id']}; it is submitted again." in again.stderr
    new = json.loads(again.stdout)
    assert project.home.wait(new["name"], deadline_s=WAIT_S_MAX)["state"] == "SUCCEEDED"
    ended = json.loads(project.run("pipeline", "show", "daily", "-o", "json").stdout)
    assert (ended["job"], ended["digest"]) == (new["id"], local_digest)
    assert ended["tasks_resumed"] > 0
