"""Shell completion: commands, flags and job names, fast, and silent when nothing is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def _complete(home, line: str) -> list[str]:
    words = line.split(" ")
    ended = subprocess.run(
        home.command(),
        env={
            **home.env,
            "_MLSCHED_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == b""
    assert ended.returncode == 0
    return ended.stdout.decode().split()


def test_commands_are_completed(home):
    assert _complete(home, "mlsched su") == ["submit"]
    assert set(_complete(home, "mlsched s")) >= {"submit", "show", "server"}


def test_flags_are_completed(home):
    assert "--gpus" in _complete(home, "mlsched run --gp")


def test_commands_of_a_noun_are_completed(home):
    assert set(_complete(home, "mlsched cron ")) == {"apply", "ls", "tick"}


def test_names_of_jobs_are_completed_while_the_service_is_down(home):
    name = home.submit("--name", "complete-me", "--", "true")
    home.run("wait", name)
    home.run("server", "stop")
    for command in ("show", "why", "logs", "cancel", "wait", "retry", "report"):
        assert _complete(home, f"mlsched {command} compl") == ["complete-me"], command
    assert home.run("server", "status").returncode == 104


def test_in_a_fresh_home_there_are_no_names_and_no_errors(fresh_home):
    assert _complete(fresh_home, "mlsched show x") == []
    assert not list(Path(fresh_home.env["XDG_RUNTIME_DIR"]).glob("mlsched/*"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_for_bash_can_be_sourced(home):
    shown = home.run("--show-completion", env={"SHELL": "/bin/bash"})
    if shown.returncode or b"complete" not in shown.stdout:
        pytest.skip("the shell around this test is not known to the completion library")
    env = {**home.env, "PATH": os.environ["PATH"]}
    ended = subprocess.run(["bash", "-n"], input=shown.stdout, env=env, check=False, timeout=60)
    assert ended.returncode == 0
