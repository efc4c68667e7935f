"""Commands that look again and again put up with a server that is away for a moment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlsched.api import patience
from mlsched.api.patience import TROUBLE_S_MAX
from mlsched.cli import ls, top
from mlsched.errors import NotFoundError, UnreachableError

AWAY = UnreachableError("away")


class Left(Exception):
    """Whoever looks has seen enough."""


@pytest.fixture
def clock(monkeypatch):
    """Time passes while somebody sleeps."""
    found = SimpleNamespace(now_s=0.0)

    def sleep(seconds):
        found.now_s += seconds

    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: found.now_s))
    for module in (ls, top):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
    return found


def session(answers):
    """A session in a cluster whose client gives these answers."""

    def call(op, **args):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(
        client=SimpleNamespace(call=call), is_data=False, is_local=False, output="table"
    )


def test_a_watch_of_the_table_goes_on_when_the_server_is_back(clock, monkeypatch):
    monkeypatch.setattr(ls, "_table", lambda session, jobs: f"{len(jobs)} jobs")
    shown = []
    monkeypatch.setattr(ls, "write", shown.append)
    answers = [{"jobs": []}, AWAY, AWAY, {"jobs": [{}]}, Left()]
    with pytest.raises(Left):
        ls._watch(session(answers), {})
    assert shown == ["0 jobs", "1 jobs"]


def test_a_server_that_stays_away_ends_it(clock, monkeypatch):
    monkeypatch.setattr(ls, "_table", lambda session, jobs: "")
    monkeypatch.setattr(ls, "write", lambda text: None)
    with pytest.raises(UnreachableError):
        ls._watch(session([{"jobs": []}, *[AWAY] * 99]), {})
    assert clock.now_s > TROUBLE_S_MAX


def test_a_server_that_was_never_there_is_an_error_at_once(clock):
    with pytest.raises(UnreachableError):
        ls._watch(session([AWAY]), {})
    assert clock.now_s == 0


def test_a_job_that_vanishes_meanwhile_does_not_end_top():
    jobs = [{"id": "a", "state": "RUNNING"}, {"id": "b", "state": "RUNNING"}]
    answers = [{"devices": []}, {"jobs": jobs}, NotFoundError("gone"), {"id": "b", "more": 1}]
    found = top.read_state(session(answers))
    assert found["jobs"] == [{"id": "b", "more": 1}]
