"""Holds the processes of a test, so that none outlives the process that asked for them.

``python -I -S reaper.py`` reads one JSON request a line from its standard input, a socket, and
answers each with one line. When the other end closes or its owner dies, by whatever signal, it
kills all its descendants, runs the clean-up commands, undoes mounts and control groups and
removes the directory. Orphans (containers and their shims) become its children: it is a
subreaper. Standard library only; one thread, since the kernel ties PDEATHSIG to a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_S_MAX = 30.0
COMMAND_S_MAX = 10.0
CGROUPS = Path("/sys/fs/cgroup")

_libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int) -> list[int]:
    """Living processes below one, zombies included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    stack = [root]
    while stack:
        below = children.get(stack.pop(), [])
        found += below
        stack += below
    return found


def cgroup_directories(name: str) -> list[Path]:
    """Directories of a control group in every hierarchy, the innermost first."""
    tops = [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]
    return [
        Path(path)
        for top in tops
        if top.is_dir()
        for path, _, _ in os.walk(top, topdown=False, followlinks=False)
    ]


def kill_cgroup(name: str) -> None:
    """SIGKILL for every process of a control group and of those below it, until none is left."""
    deadline = time.monotonic() + COMMAND_S_MAX
    while (living := _members(name)) and time.monotonic() < deadline:
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _members(name: str) -> set[int]:
    found: set[int] = set()
    for directory in cgroup_directories(name):
        with contextlib.suppress(OSError):
            found.update(map(int, (directory / "cgroup.procs").read_text().split()))
    return found


class Reaper:
    """The table of processes, and what to undo at the end."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.directory: Path | None = None
        self.cgroup = ""
        self.commands: list[list[str]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request says."""
        self.collect()
        match request["do"]:
            case "own":
                self.directory = Path(request["directory"])
                self.cgroup = request["cgroup"]
            case "undo":
                self.commands.insert(0, request["argv"])
            case "start":
                return {"pid": self.start(request)}
            case "poll":
                return {"status": self.statuses.get(request["pid"])}
            case "signal":
                if request["pid"] not in self.statuses:
                    os.kill(request["pid"], request["signal"])
            case "kill_cgroup":
                kill_cgroup(request["cgroup"])
        return {}

    def start(self, request: dict[str, Any]) -> int:
        """A child in a session of its own that dies with this process."""
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        child = os.fork()
        if child:
            self.statuses.pop(child, None)  # an orphan had the number before
            os.close(log)
            return child
        try:
            os.setsid()
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            os.execvpe(request["argv"][0], request["argv"], request["env"])
        except OSError as error:
            os.write(2, f"{request['argv'][0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def collect(self) -> None:
        """Take the exit statuses of children that ended; negative: minus the signal."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self.statuses[ended[0]] = os.waitstatus_to_exitcode(ended[1])

    def end(self) -> None:
        """Kill all, then undo what they left."""
        deadline = time.monotonic() + KILL_S_MAX
        while (living := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.collect()
            time.sleep(0.01)
        for argv in self.commands:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(argv, check=False, timeout=COMMAND_S_MAX)
        if self.cgroup:
            self.remove_cgroups(deadline)
        if self.directory is not None:
            self.remove_directory(self.directory)

    def remove_cgroups(self, deadline: float) -> None:
        """The kernel lets go of a dead process a little after its parent has read its status."""
        while (left := cgroup_directories(self.cgroup)) and time.monotonic() < deadline:
            for directory in left:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            time.sleep(0.01)

    def remove_directory(self, directory: Path) -> None:
        """Unmount what is mounted below the directory, then remove it."""
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            target = line.split()[1]
            if target.startswith(f"{directory}/"):
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    subprocess.run(["umount", "-l", target], check=False, timeout=COMMAND_S_MAX)
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Serve until the owner closes its end or dies."""
    owner = os.pidfd_open(int(sys.argv[1]))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    reaper = Reaper()
    line = socket.socket(fileno=os.dup(0))
    waiting = select.poll()
    waiting.register(line, select.POLLIN)
    waiting.register(owner, select.POLLIN)
    buffer = b""
    with contextlib.suppress(OSError):
        while not any(fd == owner for fd, _ in waiting.poll()):
            received = line.recv(65536)
            if not received:
                break
            *requests, buffer = (buffer + received).split(b"\n")
            for request in requests:
                line.sendall(json.dumps(reaper.answer(json.loads(request))).encode() + b"\n")
    reaper.end()


if __name__ == "__main__":
    main()
