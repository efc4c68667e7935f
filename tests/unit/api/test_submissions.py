"""The environment that a job gets: the shell's, without what belongs to a job around it."""

from __future__ import annotations

import json

import pytest

from mlsched.api.submissions import capture_environment, submit_args
from mlsched.errors import ConfigError


def test_a_job_runs_with_the_environment_of_the_shell():
    environ = {"PATH": "/bin", "HOME": "/h", "WORLD_SIZE": "3", "MLSCHED_QUEUE": "q", "_": "/x"}
    assert capture_environment(environ) == {
        "PATH": "/bin",
        "HOME": "/h",
        "WORLD_SIZE": "3",
        "MLSCHED_QUEUE": "q",
    }


def test_a_job_submitted_by_a_job_does_not_get_its_ranks_and_devices():
    environ = {
        "PATH": "/bin",
        "MLSCHED_JOB_ID": "1",
        "MLSCHED_PROGRESS_FILE": "/x",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_PORT": "1",
        "PET_NNODES": "1",
    }
    assert capture_environment(environ) == {"PATH": "/bin"}


def test_what_is_not_text_is_left_out():
    assert capture_environment({"A": "\udcff", "\udcff": "a", "B": "ü"}) == {"B": "ü"}


def test_a_request_says_who_asks_from_where_with_which_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARK", "1")
    args = submit_args({"kind": "MLJob"}, "mine")
    assert args["document"] == {"kind": "MLJob"}
    assert args["idempotency_key"] == "mine"
    assert args["workdir"] == str(tmp_path)
    assert args["environment"]["MARK"] == "1"
    json.dumps(args)


def test_a_working_directory_that_was_removed_is_an_error(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="does not exist"):
        submit_args({})
