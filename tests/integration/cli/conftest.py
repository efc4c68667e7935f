"""The real program against the real service, in a home of its own for each file of tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.pipeline_projects import gated, project

__all__ = ["gated", "project"]

TIMEOUT_S = 60


class Home:
    """A fresh installation, and the command line in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started: list[subprocess.Popen[bytes]] = []
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLSCHED_", "XDG_", "CUDA_", "SLURM_", "PYTEST_"))
        }
        runtime = path / "run"
        runtime.mkdir(mode=0o700, parents=True)
        self.env = {**kept, "HOME": str(path), "XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm"}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            self.env.pop(name, None)

    def configure(self, text: str) -> None:
        """Write config.toml."""
        path = self.path / ".config" / "mlsched" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "mlsched", *words]

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        """One command line to its end; output as bytes."""
        env = {**self.env, **more.pop("env", {})}
        more.setdefault("stdin", None if "input" in more else subprocess.DEVNULL)
        return subprocess.run(
            self.command(*words),
            env=env,
            cwd=more.pop("cwd", self.path),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            **more,
        )

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """One command line that goes on."""
        pipe = subprocess.PIPE
        started = subprocess.Popen(
            self.command(*words), env=self.env, cwd=self.path, stdin=subprocess.DEVNULL,
            stdout=more.pop("stdout", pipe), stderr=more.pop("stderr", pipe), **more,
        )  # fmt: skip
        self._started.append(started)
        return started

    def json(self, *words: str, **more: Any) -> Any:
        """The value that a command prints with ``-o json``; it must succeed."""
        at = words.index("--") if "--" in words else len(words)
        ended = self.run(*words[:at], "-o", "json", *words[at:], **more)
        assert ended.returncode == 0, ended.stderr.decode()
        return json.loads(ended.stdout)

    def submit(self, *words: str, **more: Any) -> str:
        """Submit, and give the name."""
        ended = self.run("submit", *words, **more)
        assert ended.returncode == 0, ended.stderr.decode()
        return ended.stdout.decode().strip()

    def state(self, name: str) -> str:
        return str(self.json("show", name)["state"])

    def stop(self) -> None:
        """End every command, cancel what runs, and end the service."""
        for started in self._started:
            started.kill()
            for stream in (started.stdout, started.stderr):
                if stream is not None:
                    stream.close()
            started.wait()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("cancel", "--all", "--grace", "0", "--yes")
            names = self.run("ls", "-o", "name").stdout.decode().split()
            if names:
                self.run("wait", *names, "--timeout", "20s")
            self.run("server", "stop")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    made.configure("[service]\nretry_delay_s = 0.1\n")
    yield made
    made.stop()


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.stop()
