"""Jobs are followed to their end although the service is replaced meanwhile."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mlsched.api import watching
from mlsched.api.client import Client, TornReplyError
from mlsched.api.watching import JobWatch, exit_code_of_job, exit_code_of_jobs
from mlsched.errors import NotFoundError, UnreachableError


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


def test_nothing_is_kept_of_jobs_that_nobody_named_and_that_have_ended(paths, serve):
    serve(_event("RUNNING") + _event("SUCCEEDED") + _event("RUNNING", "b") + END)
    with JobWatch(Client(paths), None, until=None) as watch:
        assert watch.wait(5)
        assert set(watch.jobs) == {"b"}


def _shown(state: str, job_id: str) -> bytes:
    return json.dumps({"ok": {"id": job_id, "state": state, "attempts": []}}).encode() + b"\n"


def test_ends_that_came_while_the_service_was_replaced_are_told(paths, serve):
    """The new one tells of open jobs alone; and what did not change is not told again."""
    begin = _event("RUNNING", "a") + _event("RUNNING", "b")
    serve(begin, _event("RUNNING", "b") + _event("PENDING", "c"), _shown("FAILED", "a"), END)
    events = []
    with JobWatch(Client(paths), None, until=None) as watch:
        while not watch.is_over:
            events += watch.poll(5)
    assert [(one["id"], one["state"]) for one in events] == [
        ("a", "RUNNING"),
        ("b", "RUNNING"),
        ("a", "FAILED"),
        ("c", "PENDING"),
    ]


class Silent:
    """A stream that has no more to say."""

    is_over = True

    def poll(self, timeout_s):
        return []

    def close(self):
        """Nothing is held."""


class Torn(Silent):
    """A stream whose service ends."""

    is_over = False

    def poll(self, timeout_s):
        raise TornReplyError("ended")


class InAJob:
    """From inside a job a service cannot be started: it comes back when somebody else needs it."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def stream(self, op, **args):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_service_that_is_away_for_a_moment_is_waited_for(monkeypatch):
    monkeypatch.setattr(watching, "_REOPEN_PAUSE_S", 0)
    away = UnreachableError("cannot be started from inside a job")
    watch = JobWatch(InAJob(Torn(), away, away, Silent()), ["a"])
    assert watch.wait()


class Slow(Silent):
    """A stream that tells at first after two seconds, by the clock of whoever waits."""

    is_over = False

    def __init__(self, monkeypatch, state):
        self.now_s = 0.0
        self._state = state
        names = SimpleNamespace(monotonic=lambda: self.now_s, sleep=lambda seconds: None)
        monkeypatch.setattr(watching, "time", names)

    def poll(self, timeout_s):
        self.now_s += timeout_s
        if self.now_s < 2:
            return []
        self.is_over = self._state == "SUCCEEDED"
        return [{"id": "a", "state": self._state}]


@pytest.mark.parametrize(("state", "reached"), [("SUCCEEDED", True), ("RUNNING", False)])
def test_what_has_happened_already_is_seen_however_far_the_server_is(monkeypatch, state, reached):
    watch = JobWatch(InAJob(Slow(monkeypatch, state)), ["a"])
    assert watch.wait(0) is reached
    assert watch.jobs["a"]["state"] == state


def test_a_server_that_never_answers_is_not_waited_for_without_end(monkeypatch):
    stream = Slow(monkeypatch, "RUNNING")
    stream.poll = lambda timeout_s: setattr(stream, "now_s", stream.now_s + timeout_s) or []
    assert not JobWatch(InAJob(stream), ["a"]).wait(0)
    assert stream.now_s < 60


def test_a_service_that_was_never_there_is_an_error_at_once():
    with pytest.raises(UnreachableError, match="inside a job"):
        JobWatch(InAJob(UnreachableError("inside a job")), ["a"]).wait()


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
