"""``mlsched pipeline``: real files run, planned and shown by the real command."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from mlsched_pipelines import open_dataset
from tests.integration.cli.pipeline_projects import (
    DAILY,
    FAILING,
    TIMEOUT_S,
)


def test_a_run_publishes_and_tells_what_it_did(project):
    project.write(DAILY)
    ended = project.run("run", "rides.py", "--set", "rows_min=100")
    assert (ended.returncode, ended.stderr) == (0, "")
    dataset = open_dataset(project.path / "daily")
    assert (dataset.version, dataset.rows) == (1, 900)
    assert dataset.to_table().column("value")[0].as_py() == 25.0
    shown = dict(re.findall(r"^(\w+): +(.*)$", ended.stdout, re.MULTILINE))
    assert shown["Dataset"] == f"{project.path}/daily, version 1"
    assert shown["Rows"] == "1,000 in, 900 out, 100 filtered"
    assert shown["Run"].endswith(", succeeded")
    assert re.fullmatch(r".*s on local", shown["Took"])


def test_json_has_everything_with_times_and_the_digest(project):
    project.write(DAILY)
    found = project.json(
        "run", "rides.py:daily", "--interval", "2026-11-26", "--set", "suffix=-a", "--workers", "2"
    )
    dataset = open_dataset(project.path / "daily-a")
    assert found["digest"] == dataset.digest
    assert found["counts"] | {"combined": 0} == {
        "rows_in": 1000, "rows_out": 1000, "filtered": 0, "rejected": 0, "made": 0, "combined": 0,
    }  # fmt: skip
    expected = {
        "pipeline": "daily-a", "file": str(project.path / "rides.py"), "name": "daily",
        "directory": str(project.path), "parameters": {"suffix": "-a"}, "interval": "2026-11-26",
        "engine": "local", "workers": 2, "state": "SUCCEEDED", "version": 1, "published": True,
        "dataset": str(project.path / "daily-a"), "error": None, "tasks_resumed": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    started, ended = (datetime.fromisoformat(found[f"{one}_at"]) for one in ("started", "ended"))
    assert started.tzinfo is not None
    assert started <= ended
    assert found["progress"]["tasks_done"] == found["progress"]["tasks"] == found["files"]
    assert project.json("show", found["id"]) == found
    assert project.json("ls") == [found]
    text = (project.records / f"{found['id']}.json").read_text()
    assert str(project.env["PATH"]) not in text
    assert not (Path(project.env["XDG_STATE_HOME"]) / "mlsched" / "state.db").exists()


def test_a_run_that_was_published_is_not_computed_again(project):
    project.write(DAILY)
    assert project.json("run", "rides.py", "--interval", "a")["published"]
    again = project.run("run", "rides.py", "--interval", "a")
    assert "nothing to do: is published already, as version 1" in again.stdout
    other = project.json("run", "rides.py", "--interval", "b")
    assert (other["published"], other["version"]) == (True, 2)
    notes = [line.split("  ")[-1] for line in project.run("ls").stdout.splitlines()[1:]]
    assert notes == ["version 2", "was version 1", "version 1"]


def test_a_failure_shows_the_users_frames_and_a_hint_that_works(project):
    project.write(FAILING)
    ended = project.run("run", "rides.py")
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f'File "{project.path}/rides.py", line 17, in inner' in ended.stderr
    assert "mlsched_pipelines" not in ended.stderr
    assert "\x1b" not in ended.stderr
    assert any(line.startswith("error: ") and "no such ride" in line for line in lines)
    shown = subprocess.run(
        project.home.command(*shlex.split(lines[-1].partition(": ")[2])[1:]),
        env=project.env, capture_output=True, text=True, check=True, timeout=TIMEOUT_S,
    ).stdout  # fmt: skip
    assert "State:     FAILED" in shown
    assert "in inner" in shown
    assert "\x1b" not in shown
    error = project.json("show", "failing")["error"]
    assert error["type"] == "ValueError"
    assert "no such ride" in error["message"]
    assert error["traceback"].startswith("Traceback")
    as_json = project.run("run", "rides.py", "-o", "json")
    assert as_json.stdout == ""
    assert json.loads(as_json.stderr)["error"]["code"] == "PipelineFailed"


def test_rows_that_break_the_contract_end_with_2_and_no_traceback(project):
    project.write(
        "strict = scan().write('strict', schema=Contract(SCHEMA, checks={'id': Check(maximum=5)}))"
    )
    ended = project.run("run", "rides.py")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "expected" in ended.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("rides.py:nope",), 2, "rides.py has no 'nope'"),
        (("rides.py", "--set", "nope=1"), 2, "takes no parameter 'nope'"),
        (("rides.py", "--set", "rows_min=x"), 2, "expected a whole number"),
        (("rides.py", "--workers", "-1"), 2, "--workers: expected a number above 0"),
        (("rides.py", "--memory", "lots"), 2, "--memory: expected a size"),
        (("rides.py", "--workers", "0"), 2, "--workers: expected a number above 0"),
        (("rides.py", "--engine", "spark"), 2, "--engine: expected an engine, found 'spark'"),
        (("rides.py", "--engine", "dask://"), 2, "--engine: expected an engine"),
        (("written.py", "--set", "out="), 1, "Expected the path of a dataset"),
        (("none.py",), 2, "No such file"),
    ],
)
def test_wrong_command_lines_are_told_and_publish_nothing(project, words, code, told):
    project.write(DAILY)
    project.write("def make(out: str) -> Plan:\n    return scan().write(out)\n", "written.py")
    ended = project.run("run", *words)
    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr or "written.py" in ended.stderr
    assert not (project.path / "daily").exists()
    assert not (project.path / "manifest").exists()
    assert not project.records.exists()


def test_what_the_file_prints_does_not_spoil_json(project):
    project.write(DAILY + "\nprint('loaded')\nos.write(1, b'raw')\n")
    ended = project.run("run", "rides.py:daily", "-o", "json")
    assert json.loads(ended.stdout)["state"] == "SUCCEEDED"
    assert "loaded" in ended.stderr
    assert "raw" in ended.stderr
    assert project.run("run", "rides.py:daily", "--interval", "2").stdout.startswith("loaded\n")


def test_ls_is_bounded_and_short_ids_work(project):
    project.write(DAILY)
    ids = [project.json("run", "rides.py", "--interval", str(n))["id"] for n in range(3)]
    assert [one["id"] for one in project.json("ls", "--limit", "2")] == ids[:0:-1]
    shown = project.run("ls", "--limit", "2")
    assert "1 more; with --all all are shown." in shown.stderr
    assert len(project.run("ls", "--limit", "1", "--all", "-o", "name").stdout.split()) == 3
    for line, found in zip(shown.stdout.splitlines()[1:], ids[:0:-1], strict=True):
        assert project.json("show", line.split()[0])["id"] == found
    assert project.run("show", "2").returncode == 102
    assert project.run("ls", "--limit", "0").returncode == 2


def test_files_in_the_folder_that_are_no_records_break_nothing(project):
    assert "no runs" in project.run("ls").stderr
    assert project.run("ls", "--quiet").stderr == ""
    project.write(DAILY)
    found = project.json("run", "rides.py")
    (project.records / "x\x1b[2J\n.json").write_text("{}")
    (project.records / "20261126-101500000-aaaaaa.json").write_text("{")
    ended = project.run("ls", "-o", "json")
    assert [one["id"] for one in json.loads(ended.stdout)] == [found["id"]]
    assert ended.stderr.count("left out") == 2
    assert "\x1b" not in ended.stderr


def test_runs_in_a_cluster_are_refused_with_the_way_to_do_it(project):
    contexts = "contexts: [{name: prod, context: {cluster: c, user: u}}]"
    (project.path / "kubeconfig").write_text(contexts)
    project.write(DAILY)
    kube = {"KUBECONFIG": str(project.path / "kubeconfig")}
    for words in (
        ("run", "rides.py"),
        ("ls",),
        ("show", "x"),
        ("retry", "x"),
        ("plan", "rides.py"),
    ):
        ended = project.run(*words, "-c", "prod", **kube)
        assert ended.returncode == 1
        assert "this is about runs of this machine, not of the context 'prod'" in ended.stderr
        assert "mlsched -c prod pipeline submit FILE.py:NAME" in ended.stderr
    assert project.run("ls", "-c", "local", **kube).returncode == 0


def test_a_plan_is_shown_within_80_columns_and_nothing_is_written(project):
    project.write(DAILY)
    ended = project.run("plan", "rides.py", "--set", "rows_min=5")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    path = f"Dataset: {project.path}"
    assert all(len(line) <= 80 for line in lines if not line.startswith(path))
    assert "1. scan: " in ended.stdout
    found = project.json("plan", "rides.py")
    size_bytes = (project.path / "in.csv").stat().st_size
    assert 0 < found["bytes_to_read"] <= found["bytes_total"] <= size_bytes
    assert found["stages"][0]["tasks"] == found["splits"] - found["splits_pruned"]
    assert not (project.path / "daily").exists()
    assert not project.records.exists()


def test_in_a_job_the_progress_of_a_run_is_that_of_the_job(project):
    project.write(DAILY)
    command = project.home.command("pipeline", "run", "rides.py", "--quiet")
    ended = project.home.run("run", "--name", "in-job", "--", *command, cwd=project.path)
    assert ended.returncode == 0, ended.stderr
    progress = project.home.json("show", "in-job")["progress"]
    assert progress["done"] == progress["total"] > 1
    assert progress["note"] == "scan, 1,000 rows"


def test_in_a_directory_that_is_gone_the_error_says_so(project, tmp_path):
    (tmp_path / "gone").mkdir()
    project.write(DAILY)
    words = shlex.join(project.home.command("pipeline", "run", str(project.path / "rides.py")))
    ended = subprocess.run(
        ["sh", "-c", f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && {words}"],
        env={**project.env, "PYTHONSAFEPATH": "1"}, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (ended.returncode, "the working directory is gone" in ended.stderr) == (1, True)


def test_looking_at_runs_imports_no_arrow(project):
    project.write(DAILY)
    project.json("run", "rides.py")
    code = (
        "import sys; from mlsched.cli.main import main; sys.stdout.flush(); main(sys.argv[1:]);"
        "print('\\n@' + ' '.join(sys.modules))"
    )
    for words in (("ls",), ("show", "daily"), ("run", "--help"), ("plan", "--help")):
        ended = subprocess.run(
            [sys.executable, "-c", code, "pipeline", *words],
            env=project.env, capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
        )  # fmt: skip
        loaded = set(ended.stdout.rpartition("@")[2].split())
        assert not loaded & {"pyarrow", "numpy", "rich", "cloudpickle", "pydantic", "asyncio"}


def test_pipelines_and_ids_are_completed(project):
    project.write(DAILY)
    found = project.json("run", "rides.py")

    def complete(word: str) -> list[str]:
        line = f"mlsched pipeline show {word}"
        env = {"_MLSCHED_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
        ended = subprocess.run(
            project.home.command(), env={**project.env, **env}, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=True,
        )  # fmt: skip
        assert ended.stderr == ""
        return ended.stdout.split()

    assert complete("da") == ["daily"]
    assert complete("2") == [found["id"]]
    (project.records / "broken.json").write_text("{")
    assert complete("x") == []


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(project):
    project.write(DAILY)
    main, end = pty.openpty()
    started = subprocess.Popen(
        project.home.command("pipeline", "run", "rides.py"), env=project.env, cwd=project.path,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=end, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    text = ""
    limit = time.monotonic() + TIMEOUT_S
    while time.monotonic() < limit:
        if not select.select([main], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        text += data.decode()
        if not data:
            break
    os.close(main)
    out, _ = started.communicate(timeout=TIMEOUT_S)
    assert started.returncode == 0
    assert "starting" in text
    assert "100%, scan" in text
    assert "\x1b[2K" in text
    assert b"version 1" in out
    assert b"\x1b" not in out


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_other_engines_give_the_same_content_and_the_same_frames(project, engine):
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    project.write(DAILY)
    here = project.json("run", "rides.py", "--set", "suffix=-local")
    there = project.json("run", "rides.py", "--set", "suffix=-there", "--engine", engine)
    assert there["digest"] == here["digest"]
    assert there["engine"] == engine
    project.write(FAILING)
    ended = project.run("run", "rides.py", "--engine", engine, "--workers", "1")
    assert ended.returncode == 1
    assert f'File "{project.path}/rides.py", line 17, in inner' in ended.stderr
    assert "mlsched_pipelines" not in ended.stderr
