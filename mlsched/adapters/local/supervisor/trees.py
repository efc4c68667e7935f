"""Processes as the kernel lists them: who descends from whom, what they use, signals that are safe.

A process is known by its id and its start time together: ids are used again. Signals go through a
pidfd that is opened before the start time is checked, so they never reach a stranger.
Source: pidfd_open(2), proc(5).
"""

# pathlib costs more to import than all of the supervisor's own code.
# ruff: noqa: PTH123, PTH208
from __future__ import annotations

import os

from .signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DEAD_STATES = "ZX"
FREEZE_ROUNDS_MAX = 100
"""Rounds of stopping what was found: each halves a fork bomb at least, so this is never reached."""


class Process:
    """One process at one moment."""

    __slots__ = ("group", "parent", "pid", "session", "start_time", "state")

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start_time = int(fields[19])
        """Clock ticks after boot."""

    @property
    def is_dead(self) -> bool:
        """Ended, and waits only for its parent to take note."""
        return self.state in DEAD_STATES


def read_process(pid: int) -> Process | None:
    """The process with this id now; None when there is none, or none that we may see.

    Raises:
        OSError: nothing is known of it: no handle is to be had, for example.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            line = file.read(1024)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = line[line.rfind(b")") + 2 :].split()
    return Process(pid, fields) if len(fields) > 19 else None


def list_processes() -> dict[int, Process]:
    """Every process that can be seen, by id. Costs about 15 us a process.

    Raises:
        OSError: as `read_process`.
    """
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            process = read_process(int(name))
            if process is not None:
                found[process.pid] = process
    return found


def descendants(roots: Iterable[int], processes: dict[int, Process]) -> list[Process]:
    """Living processes below ``roots``, which are not among them."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = list(roots)
    while waiting:
        below = children.pop(waiting.pop(), ())
        waiting.extend(process.pid for process in below)
        found.extend(process for process in below if not process.is_dead)
    return found


def send_signal(pid: int, start_time: int, number: int) -> bool:
    """Signal a process, if the id still belongs to the one that started at ``start_time``.

    Returns:
        False when it has ended, or is another process, or is not ours to signal.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        process = read_process(pid)
        if process is None or process.start_time != start_time or process.is_dead:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def kill_descendants(roots: Iterable[int]) -> list[Process]:
    """Kill everything below ``roots`` that lives now; returns what was found.

    All are stopped first, again and again until no new one appears, so that a process that forks
    faster than it is killed cannot escape.
    """
    roots = list(roots)
    frozen: dict[tuple[int, int], Process] = {}
    for _ in range(FREEZE_ROUNDS_MAX):
        found = descendants(roots, list_processes())
        fresh = [p for p in found if (p.pid, p.start_time) not in frozen]
        if not fresh:
            break
        for process in fresh:
            frozen[process.pid, process.start_time] = process
            send_signal(process.pid, process.start_time, signal.SIGSTOP)
    for process in frozen.values():
        send_signal(process.pid, process.start_time, signal.SIGKILL)
    return list(frozen.values())


def estimate_memory_bytes(processes: Iterable[Process]) -> int:
    """Memory that the processes hold, at most: pages shared after a fork count in each.

    File and shared-memory pages count once, in the process that maps most of them.
    """
    private = shared_max = 0
    for process in processes:
        try:
            with open(f"/proc/{process.pid}/statm", "rb", buffering=0) as file:
                fields = file.read(256).split()
        except OSError:
            continue
        if len(fields) > 2:
            resident, shared = int(fields[1]), int(fields[2])
            private += resident - shared
            shared_max = max(shared_max, shared)
    return (private + shared_max) * PAGE_BYTES


def measure_memory_bytes(processes: Iterable[Process]) -> int:
    """Memory that the processes hold, each shared page counted once (the kernel's PSS).

    Slow for large processes, up to milliseconds a gigabyte: for use near a bound only.
    """
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process.pid}/smaps_rollup", "rb", buffering=0) as file:
                lines = file.read(4096).split(b"\n")
        except OSError:
            total += estimate_memory_bytes([process])
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    return total
