"""Jobs are followed to their end although the service is replaced meanwhile."""

from __future__ import annotations

import json

import pytest

from mlsched.api.client import Client
from mlsched.api.watching import JobWatch, exit_code_of_job, exit_code_of_jobs
from mlsched.errors import NotFoundError


def _event(state: str, job_id: str = "a") -> bytes:
    return json.dumps({"event": {"id": job_id, "state": state}}).encode() + b"\n"


END = b'{"ok": {"timed_out": false}}\n'


def test_it_ends_when_the_service_says_that_all_have_ended(paths, serve):
    serve(_event("RUNNING") + _event("SUCCEEDED") + END)
    with JobWatch(Client(paths), ["a"]) as watch:
        assert watch.wait(5)
        assert watch.jobs["a"]["state"] == "SUCCEEDED"


def test_a_stream_that_breaks_is_opened_again(paths, serve):
    service = serve(_event("RUNNING"), b"", _event("SUCCEEDED") + END)
    with JobWatch(Client(paths), ["a"]) as watch:
        assert watch.wait(10)
        assert watch.jobs["a"]["state"] == "SUCCEEDED"
    assert len(service.requests) == 3


def test_a_job_that_does_not_exist_is_an_error_at_once(paths, serve):
    serve(b'{"error": {"code": "NotFound", "message": "no", "hint": ""}}\n')
    with JobWatch(Client(paths), ["a"]) as watch, pytest.raises(NotFoundError):
        watch.wait(5)


def test_nothing_to_wait_for_is_over_at_once(paths):
    assert JobWatch(Client(paths, autostart=False), []).wait(0)


@pytest.mark.parametrize(
    ("state", "own", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 137, 137),
        ("FAILED", None, 100),
        ("FAILED", 0, 100),
        ("CANCELLED", 143, 103),
        ("CANCELLED", None, 103),
        ("RUNNING", None, 0),
        ("PENDING", None, 0),
    ],
)
def test_a_command_exits_as_its_job_did(state, own, expected):
    assert exit_code_of_job({"state": state, "exit_code": own}) == expected


def test_of_several_jobs_the_highest_code_counts():
    jobs = [
        {"state": "SUCCEEDED", "exit_code": 0},
        {"state": "FAILED", "exit_code": 7},
        {"state": "FAILED", "exit_code": 2},
    ]
    assert exit_code_of_jobs(jobs) == 7
    assert exit_code_of_jobs([]) == 0
