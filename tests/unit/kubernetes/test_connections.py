"""Requests of programs that block, up to the socket."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest

from mlsched.adapters.kubernetes import connections
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.connections import BUSY_TRIES_MAX, Connections
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.kubeconfigs import Route, Static


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


def to(server: str, **more: Any) -> Connections:
    route = Route(**more)
    return Connections(Access(server, Static(server), "team", "prod", route))


@pytest.mark.parametrize("host", ["a..b", 64 * "a" + ".b", "\u2028"])
@pytest.mark.parametrize("ask", ["get", "follow"])
def test_a_host_that_can_be_none_is_no_answer(host: str, ask: str) -> None:
    with pytest.raises(NoAnswerError, match="connect to"):
        getattr(to(f"http://{host}:1"), ask)("/p", {})


@pytest.mark.parametrize("ask", ["get", "follow"])
def test_a_proxy_that_answers_nonsense_is_no_answer(
    ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tunnel(line: Any) -> None:
        raise http.client.BadStatusLine("SSH-2.0-x")

    monkeypatch.setattr(connections._Line, "connect", tunnel)
    with pytest.raises(NoAnswerError, match="SSH"):
        getattr(to("https://h", proxy="http://p:1"), ask)("/p", {})


@pytest.mark.parametrize("ask", ["get", "follow"])
def test_an_address_with_a_path_that_can_be_none_is_no_answer(
    ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(connections._Line, "connect", lambda line: setattr(line, "sock", ours))
    monkeypatch.setattr(connections, "_KEEPALIVE", ())
    with theirs, pytest.raises(NoAnswerError, match="GET"):
        getattr(to("http://h/ä"), ask)("/p", {})
