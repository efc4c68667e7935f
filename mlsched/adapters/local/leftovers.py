"""What a dead supervisor left behind: found by four kinds of evidence, and killed.

1. Control groups that it made: every member is the job's.
2. The first process of each rank, by id and start time; it dies with the supervisor, but its
   session may live on.
3. ``MLSCHED_ATTEMPT_DIR`` in the environment of our own user's processes. The job's id would not
   do: another service of this user, with a state directory of its own, has a job of that id too.
4. Whatever descends from any of these.

Nothing is killed on weaker evidence: an id that was used again is a stranger. So one kind of
process can escape where no control group can be made: one that left the session, cleared its
environment and lost its parent, all before its supervisor was killed with SIGKILL.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from mlsched.adapters.local.attempts import AttemptDirectory, Started
from mlsched.adapters.local.supervisor.limits import list_members, remove_group
from mlsched.adapters.local.supervisor.trees import (
    Process,
    descendants,
    list_processes,
    send_signal,
)

KILL_S = 1.0
"""Longest time to try at once: whoever closes the service waits for it."""

PERIOD_S = 0.02
MARK = b"MLSCHED_ATTEMPT_DIR="

QUIET_ROUNDS = 2
"""Rounds in a row that must find nothing: a process may fork while it is looked for."""


class Evidence(Struct, frozen=True):
    """What tells the processes of one attempt from all others."""

    attempt_dir: Path
    groups: list[str]
    started: Started | None
    fresh: bool
    """The supervisor's death was seen as it happened: no id was used again since."""
    known: frozenset[tuple[int, int]]
    """Ids and start times of processes that were found before."""


def kill_leftovers(
    directory: AttemptDirectory,
    *,
    fresh: bool,
    known: Iterable[Process] = (),
) -> list[Process]:
    """Kill what is left of an attempt whose supervisor died; blocks for 1 s at most.

    Args:
        fresh: The death was seen as it happened, so that no id can have been used again since.
        known: What an earlier call could not kill.

    Returns:
        Processes that are still there; nothing is left when it is empty.
    """
    evidence = Evidence(
        directory.path,
        directory.read_groups(),
        directory.read_started(),
        fresh,
        frozenset((process.pid, process.start_time) for process in known),
    )
    deadline = time.monotonic() + KILL_S
    quiet, found = 0, list[Process]()
    while quiet < QUIET_ROUNDS and not (found and time.monotonic() > deadline):
        found = _find(evidence)
        for process in found:
            send_signal(process.pid, process.start_time, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(PERIOD_S)
    if not found:
        for group in evidence.groups:
            remove_group(group)
    return found


def _find(evidence: Evidence) -> list[Process]:
    processes = list_processes()
    members = {pid for group in evidence.groups for pid in list_members(group)}
    sessions = _own_sessions(evidence.started, processes, evidence.fresh)
    found = {
        pid
        for pid, process in processes.items()
        if not process.is_dead
        and (
            pid in members
            or process.session in sessions
            or (pid, process.start_time) in evidence.known
            or _is_marked(pid, evidence.attempt_dir)
        )
    }
    found.discard(os.getpid())
    below = descendants(found, processes)
    every = {pid: processes[pid] for pid in found} | {process.pid: process for process in below}
    every.pop(os.getpid(), None)
    return list(every.values())


def _own_sessions(started: Started | None, processes: dict[int, Process], fresh: bool) -> set[int]:
    """Sessions of ranks that cannot be a stranger's by now."""
    own = set()
    for rank in started.ranks if started else ():
        leader = processes.get(rank.pid)
        is_leader_ours = leader is not None and leader.start_time == rank.start_time
        if is_leader_ours or (leader is None and fresh):
            own.add(rank.pid)
    return own


def _is_marked(pid: int, attempt_dir: Path) -> bool:
    proc = Path(f"/proc/{pid}")
    try:
        if proc.stat().st_uid != os.getuid():
            return False
        variables = (proc / "environ").read_bytes().split(b"\0")
        marks = [os.fsdecode(value[len(MARK) :]) for value in variables if value.startswith(MARK)]
        return any(attempt_dir.samefile(mark) for mark in marks)
    except OSError:
        return False
