"""Controllers as processes of their own, started in 10 ms, killed and restarted as a test wants.

with Spawner(directory) as spawner:
    controller = Controller(spawner, kubeconfig)
    controller.start()
    controller.kill()            # SIGKILL
    controller.tend()            # starts it again when it has ended, as a Deployment would
    controller.stop()            # SIGTERM: gives its lease back
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

LEASE_S = 1.5
SETTINGS: dict[str, Any] = {
    "image": "none",
    "timing": {"duration_s": LEASE_S, "deadline_s": LEASE_S * 2 / 3, "period_s": LEASE_S / 8},
    "retry": {"delay_ms": 50, "delay_ms_max": 1000},
    "silence_s_max": 3.0,
    "answer_s_max": 2.0,
}
"""Everything that waits is short, so that a run takes seconds."""

_BLUNDERS = ("Traceback", "is left alone", "never retrieved", "ended with an error")

END_S_MAX = 20.0


class Spawner:
    """The process that controllers are forked from.

    Args:
        directory: Where the logs of the controllers are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.controlplane.spawner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Spawner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(END_S_MAX)
        if self._process.stdout:
            self._process.stdout.close()

    def start(self, kubeconfig: Path, log: Path, settings: dict[str, Any]) -> int:
        """Fork one; its process id."""
        pid: int = self._ask(kubeconfig=str(kubeconfig), log=str(log), settings=settings)["pid"]
        return pid

    def poll(self, pid: int) -> int | None:
        """Exit status, minus the signal that killed it; None while it runs."""
        status: int | None = self._ask(poll=pid)["status"]
        return status

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._turn:
            if self._process.stdin is None or self._process.stdout is None:
                raise RuntimeError("expected pipes to the spawner")
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


class Controller:
    """One controller that is started again after each end.

    Attributes:
        pid: Of the process that was started last; 0 before the first.
        starts: How often it was started.
        ends: Exit statuses of those that ended by themselves.
    """

    def __init__(self, spawner: Spawner, kubeconfig: Path, name: str = "controller") -> None:
        self.log = spawner.directory / f"{name}.log"
        self.pid = 0
        self.starts = 0
        self.ends: list[int] = []
        self._spawner = spawner
        self._kubeconfig = kubeconfig
        self._is_killed = False

    def start(self, **settings: Any) -> None:
        """Start a process; settings replace those of ``SETTINGS``."""
        self.pid = self._spawner.start(self._kubeconfig, self.log, SETTINGS | settings)
        self.starts += 1
        self._is_killed = False

    def kill(self) -> None:
        """SIGKILL, also from another thread; returns at once."""
        self._is_killed = True
        self.send(signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def tend(self) -> None:
        """Start it again if it has ended."""
        status = self._spawner.poll(self.pid)
        if status is not None:
            if not self._is_killed:
                self.ends.append(status)
            self.start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order; its exit status.

        Raises:
            TimeoutError: it did not end.
        """
        self.send(number)
        deadline = time.monotonic() + END_S_MAX
        while (status := self._spawner.poll(self.pid)) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"expected the controller to end on signal {number}: {self.log}")
            time.sleep(0.01)
        return status

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def blunders(log: Path) -> list[str]:
    """Lines in the log of a controller that tell of an error of its own, contained or not."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if any(word in line for word in _BLUNDERS)]
