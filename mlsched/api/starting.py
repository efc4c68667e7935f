"""Starts the service in the background, and waits until it listens.

Two clients may do this at once: both start a process, the one that loses the lock leaves with
exit code 0, and both clients find the winner. Called by `mlsched.api.client` alone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from msgspec import Struct

from mlsched.config import Paths, load_settings
from mlsched.errors import UnreachableError

START_S_MAX = 10.0
"""Until the socket must answer."""

START_S_MAX_ALIVE = 30.0
"""The same while the process that was started lives: a driver that hangs takes 10 s to give up."""

RESTART_S = 0.5
"""Between two tries to start it while another process holds the lock and does not listen."""

_POLL_S = 0.01
_LOG_TAIL_BYTES = 2000
_children: set[int] = set()


class Started(Struct, frozen=True):
    """A service process that was just started."""

    pid: int
    log_offset: int
    """Size of the service log before: what stands behind is of this start."""
    at_s: float
    """On the monotonic clock."""


def start_service(paths: Paths) -> Started:
    """Start ``python -m mlsched.server`` in a session of its own, its output in the service log.

    Raises:
        ConfigError: the state directory cannot be made or is not ours, or config.toml is wrong.
        UnreachableError: this is inside a job, the log cannot be written, or the process cannot
            be started.
    """
    _reap()
    if job := os.environ.get("MLSCHED_JOB_ID"):
        # It would be a descendant of the job's supervisor, and end with the job.
        raise UnreachableError(
            f"the service does not run, and cannot be started from inside a job ({job}).",
            "Run any mlsched command outside of jobs, such as 'mlsched ls', and try again.",
        )
    paths.create()
    load_settings(paths.config_file)
    command = [sys.executable, "-P", "-m", "mlsched.server"]
    try:
        log = os.open(
            paths.service_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise UnreachableError(
            f"cannot write the service log {paths.service_log}: {error.strerror}.",
            "Free some space, or set XDG_STATE_HOME to another directory.",
        ) from error
    try:
        offset = os.fstat(log).st_size
        pid = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
        )
    except OSError as error:
        raise UnreachableError(f"cannot start the service: {error.strerror}.") from error
    finally:
        os.close(log)
    _children.add(pid)
    return Started(pid, offset, time.monotonic())


def start_and_connect(paths: Paths, connect: Callable[[], socket.socket | None]) -> socket.socket:
    """Start the service, and give the first connection that succeeds.

    A process of ours that leaves with 0 found the lock taken: by a service that another client
    starts at this moment, or by one that is about to end. So it is started again from time to time.

    Raises:
        ConfigError: as `start_service`.
        UnreachableError: no service listens in time; with the last words of the one started.
    """
    begun = time.monotonic()
    started, status = start_service(paths), None
    while True:
        connection = connect()
        if connection is not None:
            return connection
        status = _exit_status(started.pid) if status is None else status
        waited_s = time.monotonic() - begun
        limit_s = START_S_MAX_ALIVE if status is None else START_S_MAX
        if waited_s > limit_s or status not in (None, 0):
            raise _failed_start(started, paths, status)
        if status == 0 and time.monotonic() - started.at_s > RESTART_S:
            started, status = start_service(paths), None
        time.sleep(_POLL_S)


def _exit_status(pid: int) -> int | None:
    """Exit code of a child of ours; None while it lives."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    if not found:
        return None
    _children.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _reap() -> None:
    """Collect services that ended meanwhile: a notebook lives longer than they do."""
    for pid in tuple(_children):
        _exit_status(pid)


def _failed_start(started: Started, paths: Paths, status: int | None) -> UnreachableError:
    if status == 0:
        return UnreachableError(
            f"another service holds {paths.lock} and does not listen at {paths.socket}.",
            f"It may have been started with another XDG_RUNTIME_DIR; see {paths.service_log}.",
        )
    words = _log_since(paths, started.log_offset)
    what = "does not answer" if status is None else f"ended with exit code {status}"
    message = f"the service was started and {what}."
    if words:
        message += f" Its last words: {words}"
    return UnreachableError(message, f"The whole log is {paths.service_log}.")


def _log_since(paths: Paths, offset: int) -> str:
    try:
        with paths.service_log.open("rb") as file:
            file.seek(max(offset, paths.service_log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " / ".join(line.strip() for line in lines[-3:])
