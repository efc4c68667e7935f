"""One process of a job: forked, put in its own session, executed, and its end understood.

The child tells through a pipe why it could not execute the command; the kernel closes the pipe
when it could. Source: execve(2), prctl(2), setsid(2).
"""

# pathlib costs more to import than all of the supervisor's own code.
# ruff: noqa: PTH110, PTH118
from __future__ import annotations

import ctypes
import errno
import os
import time

from .pumps import Copy, Log, Stream
from .signals import signal
from .trees import read_process
from .verdicts import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .limits import Limits

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

BLOCKED = (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP)
"""Held back while forking: a signal must reach the supervisor or the command, never neither."""

BUSY_TRIES = 20
BUSY_DELAY_S = 0.01
"""A script can be busy while another process forks with it open for writing."""

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def set_process_option(option: int, value: int) -> None:
    """Call prctl, which Python does not offer.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _read_start_time(pid: int) -> int:
    """0 when it cannot be read: the process runs all the same."""
    try:
        found = read_process(pid)
    except OSError:
        return 0
    return found.start_time if found else 0


class Rank:
    """One started process and its pipes.

    Args:
        spec: ``rank``, ``argv`` and ``env`` as in launch.json.

    Attributes:
        error_handle: Reads why the command could not be executed; -1 once that is known.
        status: As from ``os.waitstatus_to_exitcode``; None while it runs.
    """

    def __init__(
        self, spec: dict[str, Any], workdir: str, limits: Limits, log: Log, copy: Copy | None
    ) -> None:
        self.number: int = spec["rank"]
        self.status: int | None = None
        self.log = log
        self._argv: list[str] = spec["argv"]
        self._workdir = workdir
        self._error = b""
        self.error_handle, error = os.pipe2(os.O_CLOEXEC)
        ends = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        self.pid = self._fork(spec["env"], limits, error, [end for _, end in ends])
        for handle in (error, *(end for _, end in ends)):
            os.close(handle)
        self.start_time = _read_start_time(self.pid)
        self.streams = [
            Stream(ends[0][0], "stdout", log, copy),
            Stream(ends[1][0], "stderr", log, copy),
        ]

    def _fork(self, env: dict[str, str], limits: Limits, error: int, ends: list[int]) -> int:
        supervisor = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            pid = os.fork()
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        if pid == 0:
            self._become(env, limits, error, ends, supervisor)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def _become(
        self, env: dict[str, str], limits: Limits, error: int, ends: list[int], supervisor: int
    ) -> NoReturn:
        """In the child: become the command, or tell why not and end."""
        stage = "start"
        try:
            os.setsid()
            set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)
            limits.join()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(ends[0], 1)
            os.dup2(ends[1], 2)
            stage = "workdir"
            os.chdir(self._workdir)
            _reset_signals()
            stage = "exec"
            _execute(self._argv, env)
        except BaseException as failed:  # noqa: BLE001 - whatever it is, the parent must hear it
            code = (failed.errno or 0) if isinstance(failed, OSError) else 0
            os.write(error, f"{stage} {code} {failed}".encode("utf-8", "replace")[:1000])
        finally:
            os._exit(127)

    def read_error(self) -> bool:
        """Take what the child says; True once it was executed.

        Raises:
            StartError: it could not be executed.
        """
        found = os.read(self.error_handle, 4096)
        if found:
            self._error += found
            return False
        os.close(self.error_handle)
        self.error_handle = -1
        if self._error:
            raise self._explain(self._error.decode("utf-8", "replace"))
        return True

    def _explain(self, error: str) -> StartError:
        stage, _, rest = error.partition(" ")
        number, _, text = rest.partition(" ")
        code = int(number)
        command = self._argv[0][:200]
        reason = os.strerror(code) if code else text
        if stage == "workdir":
            return StartError("workdir_missing", None, f"workdir {self._workdir}: {reason}")
        if stage == "exec" and code in (errno.ENOENT, errno.ENOTDIR):
            path = os.path.join(self._workdir, command)
            if "/" in command and os.path.exists(path):
                text = f"{command}: the interpreter named in its first line does not exist"
                return StartError("not_executable", 126, text)
            return StartError("not_found", 127, f"command not found: {command}")
        if stage == "exec" and code in (errno.EACCES, errno.EISDIR, errno.EPERM):
            return StartError("not_executable", 126, f"{command}: {reason}")
        if stage == "exec" and code == errno.ENOEXEC:
            text = f"{command}: not a program, and no #! line says what should run it"
            return StartError("not_executable", 126, text)
        if code == errno.E2BIG:
            reason = "the arguments and environment are larger than the kernel allows"
        return StartError("cannot_start", None, f"cannot start {command}: {reason}")

    def send(self, number: int, whole_group: bool = True) -> None:
        """Signal the rank's process group, or its first process only."""
        if self.status is not None:
            return
        try:
            if whole_group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            # Between fork and setsid there is no group yet.
            os.kill(self.pid, number)
        except PermissionError:
            pass


def _reset_signals() -> None:
    """Give every signal its default effect, also those that somebody above us ignored."""
    for number in range(1, signal.NSIG):
        try:
            if signal.getsignal(number) != signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Replace this process by the command, found along the PATH of its own environment."""
    file = argv[0]
    if "/" in file:
        _execute_file(file, argv, env)
    denied: OSError | None = None
    for directory in env.get("PATH", DEFAULT_PATH).split(":"):
        try:
            _execute_file(f"{directory or '.'}/{file}", argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as failed:
            denied = denied or failed
    raise denied or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _execute_file(path: str, argv: list[str], env: dict[str, str]) -> NoReturn:
    for _ in range(BUSY_TRIES):
        try:
            os.execve(path, argv, env)
        except OSError as failed:
            if failed.errno != errno.ETXTBSY:
                raise
            time.sleep(BUSY_DELAY_S)
    os.execve(path, argv, env)
