"""The real service in a home of its own, reached by the real client and the real command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlsched.api.client import Client, connect
from mlsched.config import Paths
from mlsched.errors import MlschedError


class Home:
    """A fresh home directory: one installation of mlsched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLSCHED_", "XDG_", "CUDA_", "SLURM_"))
        }
        path.mkdir(parents=True)
        self.runtime = Path(tempfile.mkdtemp(prefix="mlsched-test-", dir="/tmp"))
        self.env |= {"HOME": str(path), "XDG_RUNTIME_DIR": str(self.runtime)}
        self.witness = path / "witness"

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """One command line, to its end; text, and never longer than a minute."""
        env = {**self.env, **more.pop("env", {})}
        command = [sys.executable, "-m", "mlsched", *words]
        return subprocess.run(
            command, env=env, text=True, capture_output=True, timeout=60, check=False, **more
        )

    @property
    def paths(self) -> Paths:
        """Where this installation keeps its things."""
        return Paths.from_environment()

    def client(self) -> Client:
        """A client; starts the service when nobody serves."""
        return connect(self.paths)

    def submit(self, *command: str, **spec: Any) -> dict[str, Any]:
        """Submit a command by the client; the JOB object."""
        document = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "spec": {"command": list(command), **spec},
        }
        found = self.client().call(
            "submit", document=document, environment=self.env, workdir=str(self.path)
        )
        return dict(found["jobs"][0])

    def show(self, name: str) -> dict[str, Any]:
        """Everything about one job."""
        return dict(self.client().call("show", job=name))

    def wait(self, name: str, *states: str, deadline_s: float = 30) -> dict[str, Any]:
        """The job once it is in one of these states, or has ended when none is named."""
        wanted = states or ("SUCCEEDED", "FAILED", "CANCELLED")
        return until(lambda: found if (found := self.show(name))["state"] in wanted else None,
                     deadline_s)  # fmt: skip

    def service_pid(self) -> int:
        """Process id of the service that serves now."""
        return int(self.client().call("ping")["pid"])

    def wait_until_gone(self, pid: int) -> None:
        """Until a process has ended; a zombie that nobody reaped yet counts as gone."""
        until(lambda: not is_running(pid) or None)

    def kill_service(self) -> None:
        """Kill -9, and wait until it is gone."""
        pid = self.service_pid()
        os.kill(pid, signal.SIGKILL)
        self.wait_until_gone(pid)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until(probe: Callable[[], Any], deadline_s: float = 20) -> Any:
    """The first answer of a probe that is not None.

    Raises:
        AssertionError: there was none in time.
    """
    end = time.monotonic() + deadline_s
    while True:
        found = probe()
        if found is not None:
            return found
        assert time.monotonic() < end, f"not within {deadline_s} s"
        time.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    for name in os.environ:
        if name not in made.env:
            monkeypatch.delenv(name)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    with suppress(MlschedError):
        client = made.client()
        open_jobs = client.call("list")["jobs"]
        if open_jobs:
            client.call("cancel", jobs=[job["name"] for job in open_jobs], grace_s=0)
            for job in open_jobs:
                made.wait(job["name"])
        client.call("stop")
    shutil.rmtree(made.runtime, ignore_errors=True)


@pytest.fixture
def poll() -> Callable[..., Any]:
    return until
