"""Command lines run in this process, in an installation of their own, without a service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mlsched.cli.main import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def _refuse_to_start(paths: object) -> None:
    raise AssertionError("a unit test must not start the service")


@pytest.fixture(autouse=True)
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh XDG directories; nothing of the developer's own settings."""
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("MLSCHED_OUTPUT", "MLSCHED_CONTEXT", "MLSCHED_CONFIG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("mlsched.api.starting.start_service", _refuse_to_start)
    return tmp_path


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Ended]:
    """Run one command line; its exit code and what it printed."""

    def run_command(*words: str) -> Ended:
        capfdbinary.readouterr()
        code = main(list(words))
        out, err = capfdbinary.readouterr()
        return Ended(code, out.decode(), err.decode())

    return run_command
