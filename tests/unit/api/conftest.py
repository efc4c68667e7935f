"""A small socket server that answers with given lines, and an installation in a fresh directory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlsched.config import Paths


class AnsweringService:
    """Answers each connection with the next of the given byte strings, then closes it."""

    def __init__(self, path: Path, answers: list[bytes]) -> None:
        self.requests: list[bytes] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                self.requests.append(lines.readline())
                connection.sendall(answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Paths below a fresh directory."""
    return Paths(
        config_file=tmp_path / "config.toml",
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        socket=tmp_path / "s.sock",
    )


@pytest.fixture
def serve(paths: Paths) -> Iterator[Callable[..., AnsweringService]]:
    """Start a service that gives these answers, one a connection."""
    started: list[AnsweringService] = []

    def start(*answers: bytes) -> AnsweringService:
        started.append(AnsweringService(paths.socket, list(answers)))
        return started[-1]

    yield start
    for service in started:
        service.close()
