"""What changes of MLJobs mean for whoever waits."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest

from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError, SilenceError
from mlsched.adapters.kubernetes.kubeconfigs import Static
from mlsched.api import patience
from mlsched.api.clusters import watches
from mlsched.api.clusters.names import Reference
from mlsched.api.clusters.records import decode_record
from mlsched.api.clusters.watches import SILENCE_S_MAX, Changes, WatchStream
from mlsched.api.patience import TROUBLE_S_MAX
from mlsched.errors import UnreachableError
from tests.unit.api.clusters.conftest import mljob, record

RUNNING = {"state": "RUNNING", "attempt": 1}
DONE = {"state": "SUCCEEDED", "attempt": 1, "exitCode": 0}


def states(events):
    return [(event["name"], event["state"]) for event in events]


def test_a_watch_is_not_over_before_its_first_list():
    changes = Changes([Reference("team", "train")], "ended")
    assert not changes.is_over


def test_each_change_is_told_once_until_the_end():
    changes = Changes([Reference("team", "train")], "ended")
    assert states(changes.replace_all([record()])) == [("train", "PENDING")]
    assert states(changes.put(record())) == []
    assert states(changes.put(record(status=RUNNING))) == [("train", "RUNNING")]
    assert not changes.is_over
    assert states(changes.put(record(status=DONE))) == [("train", "SUCCEEDED")]
    assert changes.is_over


@pytest.mark.parametrize(("until", "is_over"), [("running", True), ("ended", False)])
def test_what_is_waited_for_counts(until, is_over):
    changes = Changes([Reference("team", "train")], until)
    list(changes.replace_all([record(status=RUNNING)]))
    assert changes.is_over is is_over


def test_an_array_ends_with_its_last_element():
    spec = {"array": "0-1"}
    half = {"state": "RUNNING", "elements": [{"index": 0, **DONE}, {"index": 1, **RUNNING}]}
    full = {"state": "SUCCEEDED", "elements": [{"index": 0, **DONE}, {"index": 1, **DONE}]}
    changes = Changes([Reference("team", "train")], "ended")
    list(changes.replace_all([record(spec=spec, status=half)]))
    assert not changes.is_over
    assert states(changes.put(record(spec=spec, status=full))) == [("train[1]", "SUCCEEDED")]
    assert changes.is_over


def test_one_element_is_waited_for_alone():
    spec = {"array": "0-1"}
    half = {"state": "RUNNING", "elements": [{"index": 0, **DONE}]}
    changes = Changes([Reference("team", "train", 0)], "ended")
    found = changes.replace_all([record(spec=spec, status=half)])
    assert states(found) == [("train[0]", "SUCCEEDED")]
    assert changes.is_over


@pytest.mark.parametrize("by_list", [False, True])
def test_a_job_that_is_deleted_ends_as_cancelled(by_list):
    changes = Changes([Reference("team", "train")], "ended")
    list(changes.replace_all([record(status=RUNNING)]))
    events = changes.replace_all([]) if by_list else changes.remove("team/train")
    (event,) = events
    assert (event["state"], event["reason"]["message"]) == ("CANCELLED", "its MLJob was deleted")
    assert changes.is_over


def test_without_names_open_jobs_and_new_ones_are_told():
    changes = Changes(None, None)
    listed = changes.replace_all([record("old", status=DONE), record("open")])
    assert states(listed) == [("open", "PENDING")]
    assert states(changes.put(record("new"))) == [("new", "PENDING")]
    assert states(changes.put(record("new", status=DONE))) == [("new", "SUCCEEDED")]
    assert not changes.is_over


def test_what_is_missing_is_named():
    changes = Changes([Reference("team", "train"), Reference("team", "gone")], "ended")
    list(changes.replace_all([record()]))
    assert changes.missing() == Reference("team", "gone")
    assert Changes([Reference("team", "train", 5)], "ended").missing() is not None


class Line:
    """A watch that is open."""

    def __init__(self, lines):
        self._lines = lines

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing is held."""

    def lines(self):
        return self._lines

    def close(self):
        """Nothing is held."""


class Watched:
    """An API server with one job: each watch is a list of seconds that pass, lines and errors."""

    def __init__(self, monkeypatch, answers):
        self.access = Access("http://h", Static("http://h"), "team", "prod")
        self.answers = list(answers)
        self.now_s = 0.0
        monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(watches, "_PAUSE_S", 0)

    def get(self, path, params=None):
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": [mljob()]}).encode()

    def follow(self, path, params, silence_s_max=None):
        answer = self.answers.pop(0)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return Line(self._lines(answer))

    def _lines(self, answer):
        for one in answer:
            if isinstance(one, Exception):
                raise one
            if isinstance(one, float):
                self.now_s += one
            else:
                yield one


ENDED = json.dumps({"type": "MODIFIED", "object": mljob(version=2, status=DONE)}).encode()
BOOKMARK = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}})


def seen(server):
    with WatchStream(server, "team", [Reference("team", "train")], "ended") as stream:
        return [job["state"] for job in stream]


def test_a_watch_that_was_half_open_is_begun_anew(monkeypatch):
    silent = [SILENCE_S_MAX, SilenceError("nothing came")]
    server = Watched(monkeypatch, [silent, [NoAnswerError("refused")], silent, [ENDED]])
    assert seen(server) == ["PENDING", "SUCCEEDED"]


def test_a_server_that_stays_away_is_given_up_in_the_end(monkeypatch):
    server = Watched(monkeypatch, [])

    def follow(path, params, silence_s_max=None):
        server.now_s += 1
        raise NoAnswerError("refused")

    server.follow = follow
    with pytest.raises(UnreachableError, match="does not answer"):
        seen(server)
    assert TROUBLE_S_MAX <= server.now_s < TROUBLE_S_MAX + 5


def test_a_server_that_is_busy_is_asked_again(monkeypatch):
    busy = ApiError(429, "TooManyRequests", "slow down", 1.0)
    server = Watched(monkeypatch, [[busy], [BOOKMARK.encode()], [busy], [ENDED]])
    assert seen(server) == ["PENDING", "SUCCEEDED"]


def anew(**more):
    body = mljob(version=5, **more)
    body["metadata"]["uid"] = "uid-another"
    return decode_record(json.dumps(body).encode())


@pytest.mark.parametrize("by_list", [False, True])
def test_a_job_that_is_made_anew_under_its_name_is_another(by_list):
    """What was waited for was cancelled, whatever becomes of the other."""
    changes = Changes([Reference("team", "train"), Reference("team", "other")], "ended")
    list(changes.replace_all([record(status=RUNNING), record("other")]))
    if by_list:
        events = list(changes.replace_all([anew(), record("other")]))
    else:
        events = [*changes.remove("team/train"), *changes.put(anew())]
    assert states(events) == [("train", "CANCELLED")]
    assert states(changes.put(anew(status=DONE))) == []
    assert states(changes.put(record("other", status=DONE))) == [("other", "SUCCEEDED")]
    assert changes.is_over


def test_without_names_a_job_that_is_made_anew_is_told():
    changes = Changes(None, None)
    list(changes.replace_all([record(status=RUNNING)]))
    assert states(changes.put(anew())) == [("train", "CANCELLED"), ("train", "PENDING")]


def test_nothing_is_kept_of_jobs_that_are_gone():
    changes = Changes(None, None)
    list(changes.replace_all([record("old", status=DONE)]))
    for number in range(5):
        list(changes.put(record(f"j-{number}", status=DONE)))
        list(changes.remove(f"team/j-{number}"))
    assert len(changes._told) <= 1


def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause(monkeypatch):
    """Some proxies end what has no end."""
    waits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return self.is_set()

    names = SimpleNamespace(Event=Event, Thread=threading.Thread)
    monkeypatch.setattr(watches, "threading", names)
    server = Watched(monkeypatch, [[0.0], [0.0], [BOOKMARK.encode()], [ENDED]])
    assert seen(server) == ["PENDING", "SUCCEEDED"]
    assert len(waits) == 3
