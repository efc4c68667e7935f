"""What is told of jobs that wait, while their output is followed."""

from __future__ import annotations

from typing import Any

import pytest

from mlsched.cli import following
from mlsched.cli.following import ASK_S, CLUSTER_QUIET_S, QUIET_S, Waiting
from mlsched.errors import UnreachableError


class Session:
    """Stands for a session: what was told, and answers to ``why``."""

    def __init__(self, *, is_local: bool) -> None:
        self.is_local = is_local
        self.client = self
        self.told: list[str] = []
        self.asked: list[str] = []
        self.answer: dict[str, Any] | None = {"message": "no room"}
        self.fails = False

    def tell(self, text: str) -> None:
        self.told.append(text)

    def next_command(self, words: str, job: dict[str, Any]) -> str:
        return f"{words} {job['name']}"

    def call(self, op: str, /, *, job: str) -> dict[str, Any]:
        self.asked.append(job)
        if self.fails:
            raise UnreachableError("gone")
        return {"reason": self.answer}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: now[0])
    return now


def waiting(name: str = "train", message: str = "") -> dict[str, Any]:
    return {"name": name, "state": "PENDING", "reason": {"message": message} if message else None}


def test_a_reason_is_told_once(clock: list[float]) -> None:
    session = Session(is_local=True)
    told = Waiting(session)  # type: ignore[arg-type]
    for message, wait_s in (("a", 0), ("a", QUIET_S + 1), ("a", 9), ("b", 1), ("", 99)):
        clock[0] += wait_s
        told.look({"1": waiting(message=message)})
    assert session.told == ["train waits: a", "train waits: b"]
    assert session.asked == []


def test_a_cluster_is_asked_why_now_and_then_however_many_jobs_wait(clock: list[float]) -> None:
    session = Session(is_local=False)
    told = Waiting(session)  # type: ignore[arg-type]
    jobs = {str(number): waiting(f"grid[{number}]") for number in range(100)}
    for _ in range(2 * int(ASK_S)):
        told.look(jobs)
        clock[0] += 1
    assert session.told == ["grid[0] waits: no room"]
    assert len(session.asked) == 2
    assert clock[0] > 1000 + CLUSTER_QUIET_S


def test_no_answer_to_why_is_no_end_of_following(clock: list[float]) -> None:
    session = Session(is_local=False)
    told = Waiting(session)  # type: ignore[arg-type]
    for fails, answer in ((True, None), (False, None)):
        session.fails, session.answer = fails, answer
        told.look({"1": waiting()})
        clock[0] += ASK_S + 1
        told.look({"1": waiting()})
    assert (len(session.asked), session.told) == (2, [])


def test_whoever_cannot_follow_any_more_is_told_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def follower(*_: Any, **__: Any) -> None:
        raise UnreachableError("gone for a minute")

    monkeypatch.setattr(following, "Follower", follower)
    session = Session(is_local=False)
    job = {"name": "train-1", "id": "team/train-1", "array": None}
    with pytest.raises(UnreachableError):
        following.follow(session, job, several_ranks=False)  # type: ignore[arg-type]
    assert "train-1 goes on" in capsys.readouterr().err
