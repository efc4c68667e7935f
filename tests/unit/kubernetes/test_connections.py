"""Requests of programs that block, up to the socket."""

from __future__ import annotations

from typing import Any

import pytest

from mlsched.adapters.kubernetes import connections
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.connections import BUSY_TRIES_MAX, Connections
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.kubeconfigs import Static


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept."""
    found: list[float] = []
    monkeypatch.setattr(connections.time, "sleep", found.append)
    return found


def served(answers: list[Any]) -> Connections:
    """Connections that are given these answers."""
    made = Connections(Access("http://h", Static("http://h"), "team", "prod"))

    def send(*_: Any) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)

    made._send = send  # type: ignore[method-assign]
    return made


def busy(after_s: float | None = None) -> ApiError:
    return ApiError(429, "TooManyRequests", "slow down", after_s)


def test_a_server_that_is_busy_is_asked_again_when_it_says(waits: list[float]) -> None:
    assert served([busy(2.0), busy(), busy(9999.0), b"x"]).get("/p") == b"x"
    assert waits == [2.0, 1.0, 10.0]


def test_a_server_that_stays_busy_is_left(waits: list[float]) -> None:
    with pytest.raises(ApiError, match="slow down"):
        served([busy()] * 99).merge("/p", b"{}")
    assert len(waits) == BUSY_TRIES_MAX


def test_what_else_is_refused_is_not_asked_again(waits: list[float]) -> None:
    with pytest.raises(ApiError):
        served([ApiError(500, "InternalError", "no"), b"x"]).create("/p", b"{}")
    assert waits == []
