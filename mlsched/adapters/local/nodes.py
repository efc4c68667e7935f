"""The actuator of one machine: launches attempts under supervisors, finds them again, stops them.

Turns the commands of the driver into processes, and what becomes of those into the events
`AttemptStarted`, `AttemptStuck` and `AttemptEnded`. All methods are called in the loop's thread,
and `emit` is called there; files are written in worker threads. Closing never touches a job.

The directory of an attempt is the only truth: whatever this process forgets is read again there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path

from mlsched.adapters.local.attempts import AttemptDirectory, Started, decode_started
from mlsched.adapters.local.conclusions import Stuck, conclude
from mlsched.adapters.local.launches import build_launch, choose_port
from mlsched.adapters.local.processes import (
    ProcessIdentity,
    is_alive,
    read_identity,
    signal_identity,
)
from mlsched.adapters.local.supervisors import spawn_supervisor
from mlsched.config import Settings
from mlsched.core.environments import GANG_TOKEN_BYTES, LaunchContext
from mlsched.errors import SpecError, StoreFullError, TemporaryError
from mlsched.model.events import AttemptEnded, AttemptStarted, AttemptStuck, Event
from mlsched.model.jobs import EndCause, Job, Outcome
from mlsched.runtime.tasks import Tasks

FULL = (errno.ENOSPC, errno.EDQUOT)

LOOK_S, LOOK_S_MAX = 0.05, 1.0
"""Between two looks for the start of an adopted attempt; doubles up to the bound."""

STUCK_LOOK_S = 5.0
"""Between two looks for notes of supervisors that cannot kill what they must."""

STUCK_S = 10.0
"""How long what a dead supervisor left behind is killed before it is called unkillable."""

RETRY_S = 1.0
"""Before a disk that refuses, or a kernel without a handle to spare, is asked again."""


class _Watched:
    """One attempt that this process knows of."""

    def __init__(self, directory: AttemptDirectory, job_id: str, attempt: int) -> None:
        self.directory = directory
        self.job_id = job_id
        self.attempt = attempt
        self.lock = asyncio.Lock()
        self.port = 0
        self.child: int | None = None
        self.identity: ProcessIdentity | None = None
        self.is_watched = False
        self.process_handle = -1
        self.status_handle = -1
        self.has_started = False
        self.is_stuck = False
        self.has_ended = False


class LocalNode:
    """Runs attempts on this machine.

    Args:
        jobs_dir: ``JOB_ID/ATTEMPT/`` are made below it.
        settings: Bounds on logs, and whether control groups may be used.
        emit: Takes each event; may be set later, before the first call.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        jobs_dir: Path,
        settings: Settings,
        emit: Callable[[Event], None] = lambda event: None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.emit = emit
        self._jobs_dir = jobs_dir
        self._settings = settings
        self._watched: dict[tuple[str, int], _Watched] = {}
        self._tasks = Tasks(on_problem)
        self._is_looking_for_stuck = False

    async def launch(self, job: Job) -> None:
        """Start ``job.attempt`` with the whole environment in ``job.spec.env``; at most once.

        Raises:
            TemporaryError: nothing was started, and trying again with another attempt can help.
        """
        watched = self._open(job.id, job.attempt)
        async with watched.lock:
            if watched.has_ended:
                self._forget(watched)
                return
            if watched.is_watched:
                return
            try:
                await asyncio.to_thread(self._spawn, job, watched)
            except SpecError as error:
                self._end(watched, Outcome(EndCause.CANNOT_START, message=error.message))
            except OSError as error:
                self._forget(watched)
                raise _explain(error, job) from error
            else:
                self._watch(watched)
                if watched.status_handle >= 0:
                    loop = asyncio.get_running_loop()
                    loop.add_reader(watched.status_handle, self._hear, watched)

    async def adopt(self, job: Job) -> None:
        """Find what became of an attempt that an earlier process launched, and watch it."""
        watched = self._open(job.id, job.attempt)
        async with watched.lock:
            if watched.has_ended or watched.is_watched:
                return
            launch = await asyncio.to_thread(watched.directory.read_launch)
            watched.port = int(launch.get("master_port", 0))
            watched.is_watched = True
            self._tasks.begin(self._find_out(watched, fresh=False))

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        """Ask an attempt to end; one that has not begun is taken back."""
        if self._is_over(job_id, attempt):
            return
        watched = self._open(job_id, attempt)
        async with watched.lock:
            directory = watched.directory
            if watched.has_ended:
                return
            if not directory.has_launch():
                self._end(watched, _revoked("stopped before anything was started"), keep=True)
                return
            with contextlib.suppress(OSError):
                await asyncio.to_thread(directory.write_stop, grace_s)
            if await self._revoke(watched):
                if not watched.is_watched:
                    self._end(watched, _revoked("stopped before anything was started"))
                return
        await _terminate(directory)

    async def close(self) -> None:
        """Stop watching; every job goes on."""
        await self._tasks.close()
        for watched in list(self._watched.values()):
            self._forget(watched)

    def _is_over(self, job_id: str, attempt: int) -> bool:
        """Whether nothing is awaited of an attempt any more, as far as can be known."""
        if (job_id, attempt) in self._watched:
            return False
        with contextlib.suppress(OSError):
            directory = AttemptDirectory(self._jobs_dir, job_id, attempt)
            return directory.read_outcome() is not None
        return False

    def _open(self, job_id: str, attempt: int) -> _Watched:
        key = (job_id, attempt)
        if key not in self._watched:
            directory = AttemptDirectory(self._jobs_dir, job_id, attempt)
            self._watched[key] = _Watched(directory, job_id, attempt)
        return self._watched[key]

    def _spawn(self, job: Job, watched: _Watched) -> None:
        """Write the launch and start its supervisor. In a worker thread.

        Raises:
            OSError: no supervisor was started.
        """
        directory = watched.directory
        directory.create()
        taken = {other.port for other in list(self._watched.values())}
        watched.port = choose_port(job.id, taken - {watched.port})
        if not directory.has_launch():
            context = LaunchContext(
                attempt_dir=str(directory.path),
                checkpoint_dir=str(directory.checkpoint_dir),
                master_port=watched.port,
                now_s=time.time_ns() // 1_000_000_000,
                gang_token=secrets.token_hex(GANG_TOKEN_BYTES) if job.spec.gang_token else "",
            )
            launch = build_launch(job, context, self._settings.logs)
            directory.write_launch(launch, job.spec.script)
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = spawn_supervisor(directory.path, write_end, self._settings.node.cgroups)
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        watched.child = pid
        with contextlib.suppress(OSError):
            watched.identity = read_identity(pid)
        watched.status_handle = read_end

    def _watch(self, watched: _Watched) -> None:
        """Be told when the supervisor dies; without a handle to spare, look for it."""
        watched.is_watched = True
        if not self._is_looking_for_stuck:
            self._is_looking_for_stuck = True
            self._tasks.begin(self._look_for_stuck())
        pid = watched.identity.pid if watched.identity else watched.child
        try:
            watched.process_handle = os.pidfd_open(pid) if pid else -1
        except OSError:
            watched.process_handle = -1
        if watched.process_handle < 0 or not _is_same(watched):
            self._tasks.begin(self._look_for_death(watched))
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(watched.process_handle, self._died, watched)

    def _hear(self, watched: _Watched) -> None:
        """The supervisor tells that every rank runs, or has closed its end."""
        asyncio.get_running_loop().remove_reader(watched.status_handle)
        try:
            started = decode_started(os.read(watched.status_handle, 4096))
        except (OSError, ValueError):
            started = None
        os.close(watched.status_handle)
        watched.status_handle = -1
        if started is not None:
            self._start(watched, started)

    def _died(self, watched: _Watched) -> None:
        if watched.process_handle >= 0:
            asyncio.get_running_loop().remove_reader(watched.process_handle)
            os.close(watched.process_handle)
            watched.process_handle = -1
        if watched.status_handle >= 0:
            self._hear(watched)
        self._tasks.begin(self._find_out(watched, fresh=True))

    async def _look_for_death(self, watched: _Watched) -> None:
        while _may_be_alive(watched):
            await asyncio.sleep(LOOK_S_MAX)
        self._died(watched)

    async def _look_for_start(self, watched: _Watched) -> None:
        """Wait for the start of an adopted attempt; its pipe was another process'."""
        delay_s = LOOK_S
        while not watched.has_started and not watched.has_ended:
            with contextlib.suppress(OSError):
                started = await asyncio.to_thread(watched.directory.read_started)
                if started is not None:
                    self._start(watched, started)
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(LOOK_S_MAX, delay_s * 2)

    async def _look_for_stuck(self) -> None:
        """Tell of attempts that cannot be ended, each once, as long as anything is watched."""
        while self._watched:
            await asyncio.sleep(STUCK_LOOK_S)
            watched = [one for one in self._watched.values() if not one.is_stuck]
            for one, pids in await asyncio.to_thread(_read_stuck, watched):
                self._tell_stuck(one, pids)
        self._is_looking_for_stuck = False

    def _tell_stuck(self, watched: _Watched, pids: list[int]) -> None:
        if pids and not watched.is_stuck and not watched.has_ended:
            watched.is_stuck = True
            self.emit(AttemptStuck(watched.job_id, watched.attempt, tuple(pids)))

    async def _find_out(self, watched: _Watched, *, fresh: bool) -> None:
        """Watch the supervisor that claimed the attempt, if it lives; else tell how it ended."""
        found = await self._conclude(watched, _reap(watched), fresh=fresh)
        if isinstance(found, ProcessIdentity):
            watched.identity = found
            self._watch(watched)
            self._tasks.begin(self._look_for_start(watched))
            return
        started, outcome = found
        if started is not None:
            self._start(watched, started)
        self._end(watched, outcome)

    async def _conclude(
        self, watched: _Watched, status: int | None, *, fresh: bool
    ) -> tuple[Started | None, Outcome] | ProcessIdentity:
        """As `conclude`, again and again until the disk answers and nothing is left."""
        stuck_at = time.monotonic() + STUCK_S
        earlier: Stuck | None = None
        directory = watched.directory
        while True:
            try:
                found = await asyncio.to_thread(conclude, directory, status, earlier, fresh=fresh)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            if not isinstance(found, Stuck):
                return found
            earlier, fresh = found, False
            if time.monotonic() >= stuck_at:
                self._tell_stuck(watched, [process.pid for process in found.processes])
            await asyncio.sleep(STUCK_LOOK_S if watched.is_stuck else LOOK_S)

    async def _revoke(self, watched: _Watched) -> bool:
        while True:
            try:
                return await asyncio.to_thread(watched.directory.revoke)
            except FileNotFoundError:
                return False
            except OSError:
                await asyncio.sleep(RETRY_S)

    def _start(self, watched: _Watched, started: Started) -> None:
        if not watched.has_started and not watched.has_ended:
            watched.has_started = True
            self.emit(
                AttemptStarted(
                    watched.job_id, watched.attempt, started.started_at_ms, started.enforcement
                )
            )

    def _end(self, watched: _Watched, outcome: Outcome, *, keep: bool = False) -> None:
        """Tell the end once. ``keep``: a launch of this attempt may still come: refuse it."""
        if watched.has_ended:
            return
        watched.has_ended = True
        if not keep:
            self._forget(watched)
        self.emit(AttemptEnded(watched.job_id, watched.attempt, outcome))

    def _forget(self, watched: _Watched) -> None:
        self._watched.pop((watched.job_id, watched.attempt), None)
        loop = asyncio.get_running_loop()
        for handle in (watched.process_handle, watched.status_handle):
            if handle >= 0:
                loop.remove_reader(handle)
                os.close(handle)
        watched.process_handle = watched.status_handle = -1


async def _terminate(directory: AttemptDirectory) -> None:
    """Signal the supervisor that claimed the attempt, once there is a handle to spare for it."""
    while True:
        with contextlib.suppress(OSError):
            claim = directory.read_claim()
            identity = claim.identity if claim is not None else None
            if identity is None or signal_identity(identity, signal.SIGTERM):
                return
            if not is_alive(identity):
                return
        await asyncio.sleep(RETRY_S)


def _read_stuck(watched: list[_Watched]) -> list[tuple[_Watched, list[int]]]:
    """What the supervisors of these attempts cannot kill; what cannot be read is read next time."""
    found = []
    for one in watched:
        with contextlib.suppress(OSError):
            found.append((one, one.directory.read_stuck()))
    return found


def _may_be_alive(watched: _Watched) -> bool:
    """Whether the supervisor lives, as far as can be known."""
    try:
        return watched.identity is not None and is_alive(watched.identity)
    except OSError:
        return True


def _is_same(watched: _Watched) -> bool:
    """Whether the open handle is the supervisor's, and not of a stranger with its id."""
    with contextlib.suppress(OSError):
        if watched.identity is None or is_alive(watched.identity):
            return True
    os.close(watched.process_handle)
    watched.process_handle = -1
    return False


def _reap(watched: _Watched) -> int | None:
    """Take note of our own child's end; None when it was another process' child."""
    child, watched.child = watched.child, None
    if child is None:
        return None
    try:
        _, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def _revoked(message: str) -> Outcome:
    return Outcome(EndCause.REVOKED, message=message, ended_at_ms=time.time_ns() // 1_000_000)


def _explain(error: OSError, job: Job) -> TemporaryError:
    text = f"{job.name} cannot be started now: {error.strerror or error}."
    if error.errno in FULL:
        return StoreFullError(text, "Free some space; it is tried again by itself.")
    return TemporaryError(text)
