"""``mlsched submit``: a name at once, a durable job, and what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

JOB_KEYS = {
    *("name", "id", "state", "reason", "exit_code", "submitted_at", "started_at", "ended_at"),
    *("attempt", "queue", "priority", "gpus", "user", "command", "array", "array_index"),
    *("retries_left", "labels"),
}
YAML = """\
apiVersion: mlsched.io/v1alpha1
kind: MLJob
metadata: {name: from-file}
spec: {command: [sh, -c, "echo in $MLSCHED_NAME"]}
"""


def test_standard_output_is_the_bare_name(home):
    ended = home.run("submit", "--name", "bare", "--", "true")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"bare\n", b"")
    assert home.run("submit", "-o", "name", "--", "true").stdout.startswith(b"true-")


def test_json_is_the_jobs_object(home):
    job = home.json("submit", "-l", "team=nlp", "-q", "night", "--priority", "high", "--", "true")
    assert set(job) >= JOB_KEYS
    assert job["queue"] == "night"
    assert job["priority"] == 100
    assert job["labels"] == {"team": "nlp"}
    assert job["command"] == ["true"]
    assert job["submitted_at"].endswith("Z")


def test_an_array_is_one_object(home):
    job = home.json("submit", "--array", "0-3%2", "--", "true")
    assert job["array"]["size"] == 4
    assert home.run("wait", job["name"]).returncode == 0
    (row,) = [one for one in home.json("ls", "--all") if one["name"] == job["name"]]
    assert row["array"]["states"] == {"SUCCEEDED": 4}


def test_the_same_key_gives_the_same_job(home):
    first = home.json("submit", "--idempotency-key", "once", "--", "true")
    again = home.run("submit", "--idempotency-key", "once", "--", "true")
    assert again.stdout.decode().strip() == first["name"]
    assert b"nothing new" in again.stderr


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_document_is_submitted(home, source):
    path = home.path / "job.yaml"
    path.write_text(YAML)
    if source == "file":
        ended = home.run("submit", "job.yaml", "--wait")
    else:
        ended = home.run("submit", "--wait", "-", input=YAML.encode())
    name = ended.stdout.decode().strip()
    assert name.startswith("from-file")
    assert home.run("logs", name).stdout == f"in {name}\n".encode()


def test_a_script_is_taken_as_it_was_when_submitted(home):
    path = home.path / "script.sh"
    path.write_text("#!/bin/sh\n#MLSCHED --name scripted --label a=b\necho got $1\n")
    name = home.submit("script.sh", "--", "--flag")
    path.write_text("#!/bin/sh\necho changed\n")
    assert home.run("wait", name).returncode == 0
    assert home.run("logs", name).stdout == b"got --flag\n"
    assert home.json("show", name)["labels"] == {"a": "b"}


def test_a_dry_run_decides_and_stores_nothing(home):
    before = home.json("ls", "--all")
    found = home.json("submit", "--dry-run", "--name", "dry", "--cpus", "0.5", "--", "true")
    assert found["document"]["kind"] == "MLJob"
    assert found["document"]["metadata"]["name"] == "dry"
    assert found["starts_now"] is True
    assert found["reason"] is None
    assert found["placement"][0]["cpus"] == 0.5
    text = home.run("submit", "--dry-run", "--", "true").stdout.decode()
    assert text.startswith("# would start now on ")
    assert home.json("ls", "--all") == before


def test_a_dry_run_of_what_never_fits_says_so(home):
    found = home.json("submit", "--dry-run", "--gpus", "64", "--", "true")
    assert found["starts_now"] is False
    assert found["reason"]["code"] == "NeverFits"


def test_a_dry_run_can_be_submitted(home):
    text = home.run("submit", "--dry-run", "--name", "again", "--", "echo", "hi").stdout
    ended = home.run("submit", "-", input=text)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == b"again\n"


def test_wait_exits_as_the_job_did(home):
    failed = home.run("submit", "--wait", "--name", "five", "--", "sh", "-c", "exit 5")
    assert (failed.returncode, failed.stderr) == (5, b"five FAILED: ended with exit code 5\n")
    failed = home.run("submit", "--wait", "--array", "1-7", "--name", "all", "--", "false")
    assert failed.stderr.splitlines()[-2:] == [
        b"all[5] FAILED: ended with exit code 1",
        b"2 more did not succeed.",
    ]
    assert home.run("submit", "--wait", "--", "true").returncode == 0


def test_follow_prints_name_and_output(home):
    ended = home.run("submit", "-f", "--name", "followed", "--", "echo", "hi")
    assert (ended.returncode, ended.stdout) == (0, b"followed\nhi\n")


@pytest.mark.parametrize("level", ["flag", "environment", "file", "config"])
def test_precedence_from_flag_to_config(home, level):
    """Each level is asked with all below it present, by a real command line."""
    levels = ["flag", "environment", "file", "config"]
    present = levels[levels.index(level) :]
    home.configure('[defaults]\nqueue = "config"\n' if "config" in present else "")
    queue = "queue: file, " if "file" in present else ""
    (home.path / "p.yaml").write_text(YAML.replace("spec: {", f"spec: {{{queue}"))
    env = {"MLSCHED_QUEUE": "environment"} if "environment" in present else {}
    flags = ["-q", "flag"] if "flag" in present else []
    found = home.json("submit", "--dry-run", *flags, "p.yaml", env=env)
    home.configure("")
    assert found["document"]["spec"]["queue"] == level


def test_the_environment_is_never_shown(home):
    secret = "token-7f3a"
    name = home.submit("--", "true", env={"API_TOKEN": secret})
    assert home.run("wait", name).returncode == 0
    for words in (["show", name], ["show", name, "-o", "json"], ["show", name, "--spec"]):
        shown = home.run(*words)
        assert shown.returncode == 0
        assert secret.encode() not in shown.stdout


def test_variables_of_flags_reach_the_job_and_only_their_names_are_shown(home):
    name = home.submit("-e", "KEY=value-9", "-e", "MARK", "--", "sh", "-c", "echo $KEY $MARK",
                       env={"MARK": "m"})  # fmt: skip
    assert home.run("wait", name).returncode == 0
    assert home.run("logs", name).stdout == b"value-9 m\n"
    shown = home.run("show", name).stdout
    assert b"KEY" in shown
    assert b"value-9" not in shown


def test_a_job_may_wait_for_another_to_fail(home):
    first = home.submit("--", "false")
    ended = home.run("submit", "--wait", "--after", f"{first}:fail", "--", "true")
    assert ended.returncode == 0


def test_a_job_whose_dependency_failed_exits_100(home):
    first = home.submit("--", "false")
    ended = home.run("submit", "--wait", "--after", first, "--", "true")
    assert ended.returncode in (100, 103)


def test_an_unknown_dependency_is_refused(home):
    ended = home.run("submit", "-o", "json", "--after", "nobody-1", "--", "true")
    assert ended.returncode == 2
    assert "nobody-1" in json.loads(ended.stderr)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["show", "nobody"], 102),
        (["why", "nobody"], 102),
        (["logs", "nobody"], 102),
        (["logs", "-f", "nobody"], 102),
        (["wait", "nobody"], 102),
        (["cancel", "nobody"], 102),
        (["retry", "nobody"], 102),
        (["report", "nobody"], 102),
    ],
)
def test_a_job_that_does_not_exist_is_102_everywhere(home, words, code):
    ended = home.run(*words, "-o", "json")
    assert ended.returncode == code
    assert json.loads(ended.stderr)["error"]["code"] == "NotFound"


def test_a_name_that_would_leave_the_directory_is_refused(home):
    for name in ("../evil", "a/b", "a\nb", "\x1b[31m", "x" * 10_000):
        ended = home.run("submit", "--name", name, "--", "true")
        assert ended.returncode == 2
        assert b"\x1b" not in ended.stderr
        assert len(ended.stderr) < 1000


def test_arguments_over_the_kernels_limit_are_refused(home):
    (home.path / "big.yaml").write_text(
        YAML.replace("[sh", "[" + ", ".join(["x" * 1000] * 200) + ", sh")
    )
    ended = home.run("submit", "big.yaml")
    assert ended.returncode in (0, 2)
    big = json.dumps({"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob",
                      "spec": {"command": ["echo", "x" * 200_000]}})  # fmt: skip
    ended = home.run("submit", "-", input=big.encode())
    assert ended.returncode == 2
    assert b"Traceback" not in ended.stderr


CASES = Path(__file__).parents[4] / "shared" / "cases" / "sbatch"


@pytest.mark.needs_shared
@pytest.mark.skipif(not CASES.is_dir(), reason="the public batch scripts are not beside the tree")
@pytest.mark.parametrize("case", ["one-gpu", "array-throttled", "mig", "signal-to-shell", "quoted"])
def test_a_dry_run_of_a_batch_script_agrees_with_what_convert_makes_of_it(home, case):
    path = str(CASES / f"{case}.sh")
    found = home.json("submit", path, "--dry-run")["document"]
    converted = home.json("convert", path)
    found["spec"].pop("workdir")
    assert found == converted
    assert home.run("submit", path, "--dry-run").stderr == home.run("convert", path).stderr
