"""Processes that never outlive the test runner, in one directory with the logs of all.

with Processes("mlsched-plane-") as processes:
    etcd = processes.start("etcd", ["etcd", "--data-dir", ...])
    processes.wait_until("etcd answers", probe)    # shows the end of the logs when it does not

A reaper process (``reaper.py``) is their parent. It ends them and removes the directory when the
block ends, and also when the runner dies, whatever killed it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REAPER = Path(__file__).with_name("reaper.py")
END_S_MAX = 45.0
LOG_LINES = 15


class StartError(RuntimeError):
    """A process ended, or did not get ready in time; the message shows the end of its log."""


@dataclass(frozen=True)
class Process:
    """One process under the reaper."""

    name: str
    pid: int
    log: Path
    owner: Processes

    def poll(self) -> int | None:
        """Exit status, minus the signal that killed it, or None while it runs."""
        status: int | None = self.owner.ask(do="poll", pid=self.pid)["status"]
        return status

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self.owner.ask(do="signal", pid=self.pid, signal=number)

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers.

        Waits until each of its threads has stopped: on a busy machine some go on for a while.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + END_S_MAX
        while self.poll() is None and not self._is_stopped():
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected {self.name} to stop, but some of it still runs")
            time.sleep(0.01)

    def _is_stopped(self) -> bool:
        states = set()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                states.add(Path(task, "stat").read_text().rpartition(")")[2].split()[0])
        return states <= {"T", "t"}

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        self.signal(signal.SIGCONT)

    def stop(self, grace_s: float = 0.0) -> int:
        """End it: SIGTERM and a grace first, where there is one; its exit status."""
        if grace_s:
            self.signal(signal.SIGTERM)
            self._wait(grace_s)
        self.signal(signal.SIGKILL)
        status = self._wait(END_S_MAX)
        if status is None:
            raise TimeoutError(f"expected {self.name} to end by SIGKILL, but it still runs")
        return status

    def _wait(self, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while (status := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return status

    def tail(self, lines: int = LOG_LINES) -> str:
        """The end of its log."""
        if not self.log.is_file():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Processes:
    """A directory and the processes that work in it.

    Args:
        prefix: Start of the directory's name; the directory lies in /tmp, where paths of sockets
            stay short.
        cgroup: Control group that is removed at the end, in every hierarchy.
        held: File descriptors that the reaper keeps open until all is undone: locks.
    """

    def __init__(self, prefix: str, cgroup: str = "", held: Sequence[int] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        self.all: list[Process] = []
        self._turn = threading.Lock()
        self._line, theirs = socket.socketpair()
        with theirs, (self.directory / "reaper.log").open("wb") as log:
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(REAPER), str(os.getpid())],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                pass_fds=held,
                cwd="/",
            )
        self._answers = self._line.makefile("rb")
        self.ask(do="own", directory=str(self.directory), cgroup=cgroup)

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request to the reaper and its answer."""
        answer = b""
        with self._turn, suppress(ConnectionError):
            self._line.sendall(json.dumps(request).encode() + b"\n")
            answer = self._answers.readline()
        if not answer:
            log = self.directory / "reaper.log"
            said = log.read_text(errors="replace") if log.exists() else ""
            raise StartError(f"the process that holds the others has ended, and said: {said!r}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def undo(self, *argv: str) -> None:
        """Let the reaper run a command after the last process has ended, the newest first."""
        self.ask(do="undo", argv=list(argv))

    def start(self, name: str, argv: Sequence[str | Path], **env: str) -> Process:
        """Start a process; what it writes goes to NAME.log in the directory."""
        log = self.directory / f"{name}.log"
        words = [str(word) for word in argv]
        variables = {**os.environ, **env}
        answer = self.ask(do="start", argv=words, log=str(log), env=variables)
        process = Process(name, answer["pid"], log, self)
        self.all.append(process)
        return process

    def wait_until(
        self,
        what: str,
        probe: Callable[[], Any],
        *needed: Process,
        seconds: float = 30,
        every_s: float = 0.03,
    ) -> Any:
        """The first true answer of a probe, which is asked every ``every_s`` seconds.

        Raises:
            StartError: A needed process ended, or there was none in time.
        """
        deadline = time.monotonic() + seconds
        while not (found := probe()):
            for process in needed:
                if (status := process.poll()) is not None:
                    raise StartError(
                        f"expected: {what}; {process.name} ended with {status}, and said last:\n"
                        + process.tail()
                    )
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {p.name}\n{p.tail()}" for p in needed)
                raise StartError(f"expected within {seconds} s: {what}\n{tails}")
            time.sleep(every_s)
        return found

    def stop(self) -> None:
        """End all processes and remove the directory; it may be called twice."""
        self._answers.close()
        self._line.close()
        self._reaper.wait(END_S_MAX * 2)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
