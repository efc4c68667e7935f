"""Pipeline runs that are stopped, killed and tried again, by the real command."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

from mlsched_pipelines import open_dataset
from tests.integration.cli.pipeline_projects import (
    DAILY,
    FAILING,
    TIMEOUT_S,
)


def test_ctrl_c_stops_cleanly_and_the_retry_goes_on(project, gated, until):
    [running] = project.json("ls")
    assert running["state"] == "RUNNING"
    refused = project.run("retry", running["id"])
    assert (refused.returncode, "still runs" in refused.stderr) == (1, True)
    gated.send_signal(signal.SIGINT)
    assert "stopping" in gated.stderr.readline()
    (project.path / "gate").touch()
    out, err = gated.communicate(timeout=TIMEOUT_S)
    assert gated.returncode == 130
    assert "interrupted" in out
    assert not (project.path / "gated" / "manifests").exists() or not list(
        (project.path / "gated" / "manifests").iterdir()
    )
    before = project.json("show", running["id"])
    assert (before["state"], before["version"]) == ("INTERRUPTED", None)
    assert before["ended_at"] is not None
    hint = err.splitlines()[-1].partition(": ")[2]
    assert hint == f"mlsched pipeline retry {running['id']}"
    again = project.json(*shlex.split(hint)[2:])
    assert (again["state"], again["retry_of"]) == ("SUCCEEDED", running["id"])
    assert 0 < again["tasks_resumed"] < again["progress"]["tasks"]
    assert open_dataset(project.path / "gated").rows == 1000


def test_a_second_ctrl_c_leaves_at_once(project, gated):
    gated.send_signal(signal.SIGINT)
    assert "stopping" in gated.stderr.readline()
    gated.send_signal(signal.SIGINT)
    assert gated.wait(TIMEOUT_S) == 130
    assert project.json("show", "gated")["state"] == "INTERRUPTED"


def test_ctrl_c_that_also_ends_the_reader_of_the_output_is_recorded(project, gated):
    gated.stderr.close()
    gated.send_signal(signal.SIGINT)
    (project.path / "gate").touch()
    gated.wait(TIMEOUT_S)
    assert project.json("show", "gated")["state"] == "INTERRUPTED"


def test_sigterm_stops_a_run_like_ctrl_c(project, gated):
    gated.terminate()
    assert "stopping" in gated.stderr.readline()
    (project.path / "gate").touch()
    assert gated.wait(TIMEOUT_S) == 143
    assert project.json("show", "gated")["state"] == "INTERRUPTED"


def test_a_killed_run_is_interrupted_and_the_retry_goes_on(project, gated):
    gated.kill()
    gated.wait()
    [found] = project.json("ls")
    assert (found["state"], found["ended_at"]) == ("INTERRUPTED", None)
    assert "INTERRUPTED" in project.run("ls").stdout
    (project.path / "gate").touch()
    again = project.run("retry", "gated", "--workers", "2", cwd=Path("/"))
    assert again.returncode == 0, again.stderr
    assert "tasks of an earlier try taken over" in again.stdout
    assert "on local, 2 workers" in again.stdout


def test_a_retry_takes_parameters_interval_and_directory_from_the_run(project):
    project.write(DAILY)
    first = project.json("run", "rides.py", "--set", "rows_min=5", "--interval", "x")
    again = project.json("retry", first["id"][:18])
    assert again["id"] != first["id"]
    assert again["published"] is False
    for name in ("parameters", "interval", "directory", "plan_hash", "file", "name", "digest"):
        assert again[name] == first[name]


def test_a_retry_begins_where_the_run_began_though_the_file_goes_elsewhere(project):
    (project.path / "sub").mkdir()
    (project.path / "in.csv").rename(project.path / "sub" / "in.csv")
    project.write("\nos.chdir('sub')\nplan = scan().write('moved')\n")
    first = project.json("run", "rides.py")
    assert first["directory"] == str(project.path)
    assert project.json("retry", "moved", "--quiet")["digest"] == first["digest"]


def test_a_retry_of_a_plan_that_changed_says_so_and_goes_on(project):
    project.write(FAILING)
    assert project.run("run", "rides.py").returncode == 1
    project.write(FAILING.replace('raise ValueError("no such ride: \\x1b[2J")', "return batch"))
    again = project.run("retry", "failing")
    assert again.returncode == 0, again.stderr
    assert "the plan has changed since" in again.stderr
    assert "version 1" in again.stdout


def test_a_retry_without_the_file_tells_how_to_run_it(project):
    project.write(DAILY)
    project.json("run", "rides.py", "--set", "suffix=-x y", "--interval", "i")
    (project.path / "rides.py").rename(project.path / "moved.py")
    ended = project.run("retry", "daily-x y")
    assert ended.returncode == 1
    assert f"is gone: {project.path}/rides.py" in ended.stderr
    assert "mlsched pipeline run rides.py:daily --interval i --set 'suffix=-x y'" in ended.stderr
