"""Logs of pods are brought to files that the readers of this machine take."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest

from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.api import patience
from mlsched.api.clusters import outputs
from mlsched.api.clusters.outputs import PodOutputs
from mlsched.api.logs import read_attempt

PODS = "/api/v1/namespaces/team/pods"
TIME = b"2026-11-26T13:00:00.000000000Z"


class FakeFlow:
    """A log that comes in pieces; an exception among them is raised there."""

    def __init__(self, pieces):
        self._pieces = pieces

    def chunks(self):
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing is held."""

    def close(self):
        """Nothing is held."""


class FakePods:
    """Pods of train's first attempt, and their logs: one answer for each request."""

    def __init__(self, logs, phase="Succeeded"):
        self.logs = logs
        self.asked = []
        self.forbids_pods = False
        self._phase = phase

    def get(self, path, params=None):
        pods = [self._pod(name) for name in self.logs]
        if path == PODS:
            assert params == {"labelSelector": "mlsched.io/job=train,mlsched.io/attempt=1"}
            return json.dumps({"metadata": {}, "items": pods}).encode()
        if self.forbids_pods:
            raise ApiError(403, "Forbidden", 'User "u" cannot get pods')
        return json.dumps(self._pod(path.rpartition("/")[2])).encode()

    def _pod(self, name):
        rank = name.rpartition("-")[2]
        return {
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"containers": [{"name": f"rank-{rank}"}, {"name": "sidecar"}]},
            "status": {"phase": self._phase},
        }

    def follow(self, path, params, silence_s_max=None):
        name = path.split("/")[-2]
        self.asked.append((name, dict(params)))
        answer = self.logs[name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return FakeFlow(answer)


JOB = {"id": "team/train", "attempt": 1, "state": "SUCCEEDED"}


def line(text, second=0):
    return b"2026-11-26T13:00:%02d.000000000Z %s\n" % (second, text)


def lines_of(directory):
    return [(record.rank, record.data) for record in read_attempt(directory)]


@pytest.fixture
def follow(until_true):
    """Follow JOB to its end; what is in its files then, and what was told."""

    def run(pods):
        told = []
        with PodOutputs(pods, told.append) as found:
            found.look(JOB)
            until_true(lambda: found.is_whole("team/train", 1))
            return lines_of(found.directory("team/train", 1)), told

    return run


@pytest.fixture
def until_true():
    """Wait for threads, which end at once here."""

    def wait(probe):
        for thread in threading.enumerate():
            if thread.name.startswith(("mlsched-pods", "mlsched-log")):
                thread.join(20)
        for thread in threading.enumerate():
            if thread.name == "mlsched-log":
                thread.join(20)
        assert probe()

    return wait


def test_all_ranks_are_followed_to_their_ends(follow):
    pods = FakePods({"train-1-0": [[line(b"a"), line(b"b")]], "train-1-1": [[line(b"c")]]})
    found, told = follow(pods)
    assert sorted(found) == [(0, b"a"), (0, b"b"), (1, b"c")]
    assert told == []


def test_a_stream_that_breaks_is_opened_again_from_where_it_was(follow):
    broken = [line(b"a"), line(b"b", 1), NoAnswerError("reset")]
    pods = FakePods({"train-1-0": [broken, [line(b"b", 1), line(b"c", 2)]]})
    found, _ = follow(pods)
    assert [text for _, text in found] == [b"a", b"b", b"c"]
    assert [asked.get("sinceTime") for _, asked in pods.asked] == [None, "2026-11-26T13:00:01Z"]


def test_a_log_that_nobody_may_read_is_told(follow):
    pods = FakePods({"train-1-0": [ApiError(403, "Forbidden", "no pods/log for you")]})
    found, told = follow(pods)
    assert found == []
    assert "no pods/log for you" in told[0]


def test_pods_that_may_not_be_read_end_the_following(follow):
    pods = FakePods({"train-1-0": [[line(b"a")]] + [[]] * 50})
    pods.forbids_pods = True
    found, told = follow(pods)
    assert found == []
    assert "cannot get pods" in told[0]


class RarelyThere(FakePods):
    """Each try to open a log takes a quarter of a second, by the clock of whoever waits.

    Looks at pods take none: how many there are depends on threads.
    """

    def __init__(self, monkeypatch, logs):
        super().__init__(logs)
        self.now_s = 0.0
        monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(outputs, "PAUSE_S", 0)

    def follow(self, path, params, silence_s_max=None):
        self.now_s += 0.25
        return super().follow(path, params, silence_s_max)


def test_a_log_that_cannot_be_reached_is_waited_for_and_told_of_in_the_end(follow, monkeypatch):
    gone = NoAnswerError("refused")
    back = [[line(b"a"), gone], *[gone] * 200, [line(b"a"), line(b"b")]]
    found, told = follow(RarelyThere(monkeypatch, {"train-1-0": back}))
    assert [text for _, text in found] == [b"a", b"b"]
    assert told == []
    away = [[line(b"a"), gone], *[gone] * 1000]
    found, told = follow(RarelyThere(monkeypatch, {"train-1-0": away}))
    assert [text for _, text in found] == [b"a"]
    assert "cannot be shown" in told[0]


def test_a_container_that_never_began_has_no_output(follow):
    pods = FakePods({"train-1-0": [ApiError(400, "BadRequest", "is waiting to start")]})
    assert follow(pods) == ([], [])


def test_what_is_there_is_copied_without_following():
    pods = FakePods({"train-1-0": [[line(b"a"), TIME + b" b"]]}, phase="Running")
    with PodOutputs(pods) as found:
        directory = found.fetch(JOB, 1)
        assert lines_of(directory) == [(0, b"a"), (0, b"b")]
        assert "follow" not in pods.asked[0][1]
    assert not directory.exists()


def test_pods_that_are_gone_are_told_of():
    told = []
    with PodOutputs(FakePods({}), told.append) as found:
        assert lines_of(found.fetch(JOB, 1)) == []
    assert told == ["its pods are gone, and their output with them."]


class Vanishing(FakePods):
    """The pod is gone once its log has been read."""

    def get(self, path, params=None):
        if path != PODS and self.asked:
            raise ApiError(404, "NotFound", "no such pod")
        return super().get(path, params)


class Ending(FakePods):
    """The pod ends before its log is asked for the last time."""

    def get(self, path, params=None):
        if len(self.logs["train-1-0"]) == 1:
            self._phase = "Succeeded"
        return super().get(path, params)


def test_a_last_line_without_an_end_is_kept_when_its_pod_is_gone(follow):
    pods = Vanishing({"train-1-0": [[line(b"a"), TIME + b" b"]]}, phase="Running")
    assert follow(pods) == ([(0, b"a"), (0, b"b")], [])


def test_a_last_line_without_an_end_is_kept_when_the_log_is_gone(follow):
    gone = ApiError(404, "NotFound", "no such pod")
    pods = Ending({"train-1-0": [[line(b"a"), TIME + b" b"], gone, gone]}, phase="Running")
    assert follow(pods) == ([(0, b"a"), (0, b"b")], [])


@pytest.mark.parametrize("code", [400, 404])
def test_a_log_that_is_not_there_yet_is_asked_for_again(follow, code):
    early = ApiError(code, "", "not yet")
    pods = Ending({"train-1-0": [early, early, [line(b"a")]]}, phase="Pending")
    assert follow(pods) == ([(0, b"a")], [])


def test_a_container_that_takes_its_time_is_asked_for_less_and_less(follow, monkeypatch):
    waits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return self.is_set()

    monkeypatch.setattr(outputs, "threading", SimpleNamespace(Event=Event, Thread=threading.Thread))
    waiting = ApiError(400, "BadRequest", "is waiting to start: ContainerCreating")
    pods = FakePods({"train-1-0": [*[waiting] * 20, [line(b"a")], [line(b"a")]]}, phase="Pending")

    def follow_log(path, params, silence_s_max=None):
        if len(pods.logs["train-1-0"]) == 2:
            pods._phase = "Succeeded"
        return FakePods.follow(pods, path, params, silence_s_max)

    pods.follow = follow_log
    found, _ = follow(pods)
    assert found == [(0, b"a")]
    pauses = [seconds for seconds in waits if seconds is not None]
    assert pauses[0] == outputs.PAUSE_S
    assert sum(pauses) > 20
    assert max(pauses) == outputs.PAUSE_S_MAX
