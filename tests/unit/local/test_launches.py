"""A job becomes the document from which a supervisor starts it."""

from __future__ import annotations

import json
import socket

import pytest

from mlsched.adapters.local.launches import (
    PORT_MAX,
    PORT_MIN,
    build_launch,
    choose_port,
    expand_output,
    signal_number,
)
from mlsched.adapters.local.supervisor import jsons
from mlsched.config import LogSettings
from mlsched.core.environments import LaunchContext
from mlsched.errors import SpecError
from mlsched.model.jobs import ArrayMembership
from mlsched.model.specs import StopSignal

CONTEXT = LaunchContext("/jobs/job-1/1", "/jobs/job-1/checkpoints", 23456, 1_000_000)


def _launch(job):
    return build_launch(job, CONTEXT, LogSettings(1 << 20, 3))


def test_the_launch_says_all_that_a_supervisor_needs(make_job):
    job = make_job(
        "train", "-x", devices=((), ()), nodes=2, workdir="/data", time_limit_seconds=60,
        grace_seconds=7, signal=StopSignal("USR1", 20, "shell"),
    )  # fmt: skip
    found = _launch(job)
    assert [rank["argv"] for rank in found["ranks"]] == [["train", "-x"]] * 2
    assert [rank["rank"] for rank in found["ranks"]] == [0, 1]
    kept = {name: value for name, value in found.items() if name != "ranks"}
    assert kept == {
        "job_id": "job-1",
        "name": "train-7",
        "attempt": 1,
        "workdir": "/data",
        "time_limit_s": 60,
        "grace_s": 7,
        "signal": {"number": 10, "before_end_s": 20, "to": "shell"},
        "memory_bytes": 2 << 30,
        "milli_cpus": 2000,
        "log_bytes_max": 1 << 20,
        "log_files_max": 3,
        "output": "",
        "master_port": 23456,
    }


def test_a_script_is_the_command_and_the_command_its_arguments(make_job):
    found = _launch(make_job("one", "two", script="#!/bin/sh\n"))
    assert found["ranks"][0]["argv"] == ["/jobs/job-1/1/script", "one", "two"]


def test_a_job_with_nothing_to_run_is_refused(make_job):
    with pytest.raises(SpecError, match="neither a command nor a script"):
        _launch(make_job())


def test_a_job_without_a_workdir_runs_at_home(make_job):
    assert _launch(make_job("x", env={"HOME": "/home/ada"}))["workdir"] == "/home/ada"
    assert _launch(make_job("x"))["workdir"] == "/"


@pytest.mark.parametrize(
    ("name", "number"), [("TERM", 15), ("SIGUSR2", 12), ("usr1", 10), ("2", 2)]
)
def test_signals_have_numbers(name, number):
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["NOPE", "", "0", "999", "SIG", "_DFL"])
def test_what_is_no_signal_is_refused(name):
    with pytest.raises(SpecError, match="signal"):
        signal_number(name)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("out.txt", "/data/out.txt"),
        ("%x-%j.log", "/data/train-7-job-1.log"),
        ("/logs/%A_%a.out", "/logs/arr_4.out"),
        ("%u/100%%", "/data/ada/100%"),
        ("%q", "/data/%q"),
        ("../%x", "/train-7"),
    ],
)
def test_output_patterns_are_slurms(make_job, pattern, expected):
    job = make_job("x", array=ArrayMembership("arr", "train", 4, 10))
    assert expand_output(pattern, job, "/data") == expected


def test_a_job_keeps_its_port_and_jobs_differ():
    ports = [choose_port(f"job-{number}", ()) for number in range(50)]
    assert ports == [choose_port(f"job-{number}", ()) for number in range(50)]
    assert all(PORT_MIN <= port < PORT_MAX for port in ports)
    assert PORT_MAX <= 30_000, "Kubernetes and the kernel hand out the ports above"
    assert len(set(ports)) > 40


def test_a_port_that_is_promised_or_used_is_not_given_again():
    first = choose_port("job", ())
    second = choose_port("job", {first})
    with socket.socket() as other:
        other.bind(("127.0.0.1", second))
        third = choose_port("job", {first})
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -5, "", 'a"b\\c\n\x00\u2028ä😀\udcff', [], {}, [1, [2, {"a": None}]]],
)
def test_a_supervisor_reads_and_writes_the_same_json(value):
    """Without the package json: both directions agree with it."""
    assert jsons.loads(json.dumps(value)) == value
    assert json.loads(jsons.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", "[1,", "{} x", "nope", '"open'])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        jsons.loads(text)
