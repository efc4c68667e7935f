"""The life of one attempt: claim it, start its ranks, watch them, end all of them, record how.

One thread and one loop over pipes, signals and deadlines. The claim (``run.json``, created once by
link) decides who runs the attempt: nobody runs it twice. The exit status is durable before this
process leaves, also when the disk is full.
"""

# pathlib costs more to import than all of the supervisor's own code.
# ruff: noqa: PTH123, PTH208
from __future__ import annotations

import errno
import os
import select
import sys
import time

from .deadlines import Deadlines
from .files import Reserve, link_once, read_json, replace
from .jsons import dumps
from .limits import Limits
from .pumps import UNFINISHED_S, Copy, Log
from .ranks import PR_SET_CHILD_SUBREAPER, Rank, set_process_option
from .signals import signal
from .trees import descendants, kill_descendants, list_processes, read_process, send_signal
from .verdicts import FAILED, StartError, Verdict
from .watches import MemoryWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_TEMPORARY = 75
"""Nothing was started because the disk is full: sysexits' EX_TEMPFAIL."""

STATUS_HANDLE = 3
"""Where the service listens for the start."""

CLEAN_S = 0.05
"""Between two looks at what outlives the ranks or its SIGKILL."""

STUCK_S = 20.0
"""How long a killed process may stay before it is called unkillable: state D, a hung device."""

STUCK_PERIOD_S = 1.0
"""Between two looks at what cannot be killed."""


SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""The machine has no handle or memory to spare for a moment: no reason to end a job."""


def main(directory: str) -> int:
    """Supervise the attempt in this directory; returns the exit code of this process."""
    _close_handles()
    os.chdir("/")
    wake = _listen()
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    try:
        launch = read_json(f"{directory}/launch.json")
        reserve = Reserve(directory)
        if not link_once(directory, "run.json", _identity()):
            reserve.release()
            return 0
    except (OSError, ValueError) as failed:
        sys.stderr.write(f"nothing was started: {failed}\n")
        is_full = getattr(failed, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
        return EXIT_TEMPORARY if is_full else 1
    try:
        outcome = Run(directory, launch, wake).run()
    except Exception as failed:  # noqa: BLE001 - a bug of ours must not lose the attempt's end
        outcome = _lost(failed)
    reserve.publish("exit.json", outcome)
    return 0


def _lost(failed: Exception) -> dict[str, Any]:
    """The outcome when we failed ourselves: nothing of the job goes on without us."""
    _kill_everything()
    return {
        "cause": "supervisor_lost",
        "message": f"the supervisor failed: {type(failed).__name__}: {failed}"[:500],
        "ended_at_ms": time.time_ns() // 1_000_000,
    }


def _kill_everything() -> None:
    """Kill until nothing is left below us, however long that takes: it holds devices."""
    pause_s = CLEAN_S
    while kill_descendants([os.getpid()]):
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, STUCK_PERIOD_S)


def _close_handles() -> None:
    """Close what somebody above us left open: a job that held it would hold a lock or a pipe."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > STATUS_HANDLE:
            try:
                os.close(int(name))
            except OSError:
                continue


def _listen() -> int:
    """Let signals wake the loop; returns the handle that becomes readable."""
    try:
        os.set_inheritable(STATUS_HANDLE, False)
    except OSError:
        # Nobody listens. The lowest free number is taken, so that nothing else gets it.
        os.open(os.devnull, os.O_WRONLY)
    wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return wake


def _identity() -> dict[str, Any]:
    """What tells this process from every other one, before and after it."""
    process = read_process(os.getpid())
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        boot_id = file.read().strip()
    return {
        "pid": os.getpid(),
        "start_time": process.start_time if process else 0,
        "boot_id": boot_id,
        "claimed_at_ms": time.time_ns() // 1_000_000,
    }


def _has_children() -> bool:
    """Whether anything at all is below us; orphans would be our children."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class Run:
    """State of the attempt while it runs."""

    def __init__(self, directory: str, launch: dict[str, Any], wake: int) -> None:
        self._directory = directory
        self._launch = launch
        self._wake = wake
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        # Our own id too: another service of this machine has a job of the same id.
        name = f"mlsched-{launch['job_id']}-{launch['attempt']}-{os.getpid()}"
        allowed = not os.environ.get("MLSCHED_NO_CGROUPS")
        self._limits = Limits(name, launch["memory_bytes"], launch["milli_cpus"], allowed)
        self._watch = MemoryWatch(self._limits, launch["memory_bytes"])
        self._deadlines = Deadlines()
        self._verdict = Verdict(len(launch["ranks"]))
        self._ranks: list[Rank] = []
        self._copy: Copy | None = None
        self._told: dict[str, Any] = {}
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._ended_at_ms = 0
        self._killed_at: float | None = None
        self._stuck_pids: list[int] = []
        self._is_cleaning = False
        self._warned: set[tuple[int, int]] = set()
        self._cpu_s = 0.0

    def run(self) -> dict[str, Any]:
        """Live through the attempt; returns its outcome, once nothing of it runs."""
        try:
            self._start()
        except StartError as failed:
            self._verdict.refuse(failed)
            self._stop(FAILED, "", 0)
        while not self._turn():
            pass
        for rank in self._ranks:
            for stream in rank.streams:
                stream.drain()
        outcome = self._outcome()
        self._limits.remove()
        return outcome

    def _turn(self) -> bool:
        """One turn of the loop; True when the attempt is over."""
        try:
            if self._is_over():
                return True
            self._wait()
            self._reap()
            self._act()
        except OSError as failed:
            if failed.errno not in SHORTAGES:
                raise
            time.sleep(CLEAN_S)
        return False

    def _start(self) -> None:
        """Make the logs and the processes.

        Raises:
            StartError: one cannot be made; what was started before it is still there.
        """
        launch = self._launch
        if self._limits.directories:
            self._note("cgroups.json", self._limits.directories)
        what = f"output file {launch['output']}"
        try:
            if launch["output"]:
                self._copy = Copy(launch["output"], launch["attempt"] > 1)
            for spec in launch["ranks"]:
                what = f"cannot start rank {spec['rank']}"
                path = f"{self._directory}/rank-{spec['rank']}.log"
                log = Log(path, launch["log_bytes_max"], launch["log_files_max"])
                rank = Rank(spec, launch["workdir"], self._limits, log, self._copy)
                self._ranks.append(rank)
                for handle in (rank.error_handle, *(stream.handle for stream in rank.streams)):
                    self._poll.register(handle, select.POLLIN)
        except OSError as failed:
            raise StartError("cannot_start", None, f"{what}: {failed.strerror}") from failed

    def _note(self, name: str, value: Any) -> None:
        """Leave a note for a service that comes later; the attempt goes on without it."""
        try:
            replace(self._directory, name, value)
        except OSError as failed:
            sys.stderr.write(f"cannot write {name}: {failed}\n")

    def _wait(self) -> None:
        """Sleep until something happens, and take the output that is there."""
        ready = {handle for handle, _ in self._poll.poll(self._timeout_ms())}
        if self._wake in ready:
            self._take_signals()
        now = time.monotonic()
        for rank in self._ranks:
            for stream in rank.streams:
                handle = stream.handle
                if handle in ready:
                    if not stream.read():
                        self._poll.unregister(handle)
                elif stream.unfinished_at and now - stream.unfinished_at >= UNFINISHED_S:
                    stream.flush()
            if rank.error_handle in ready:
                self._hear(rank)

    def _timeout_ms(self) -> int:
        now = time.monotonic()
        instants = [self._watch.next_at, self._deadlines.next()]
        if self._is_cleaning:
            instants.append(now + self._period_s())
        for rank in self._ranks:
            for stream in rank.streams:
                if stream.unfinished_at is not None:
                    instants.append(stream.unfinished_at + UNFINISHED_S)
        first = min(instant for instant in instants if instant is not None)
        return max(0, int((first - now) * 1000) + 1)

    def _take_signals(self) -> None:
        found = os.read(self._wake, 4096)
        self._reap()
        if signal.SIGTERM in found:
            try:
                grace_s = float(read_json(f"{self._directory}/stop.json")["grace_s"])
            except (OSError, ValueError, KeyError, TypeError):
                grace_s = self._launch["grace_s"]
            self._stop("stopped", "was asked to end", grace_s)

    def _hear(self, rank: Rank) -> None:
        """A rank was executed, or says why not; with the last one the attempt has started."""
        handle = rank.error_handle
        try:
            if not rank.read_error():
                return
        except StartError as failed:
            self._verdict.refuse(failed, rank.number)
            self._stop(FAILED, "", 0)
        self._poll.unregister(handle)
        are_all_here = len(self._ranks) == len(self._launch["ranks"])
        if are_all_here and all(other.error_handle < 0 for other in self._ranks):
            self._announce()

    def _announce(self) -> None:
        """Every rank runs: start the clocks and tell the service, if it is there."""
        if self._verdict.has_error:
            return
        self._started_at = time.monotonic()
        launch, limits = self._launch, self._limits
        before_end_s = launch["signal"]["before_end_s"] if launch["signal"] else None
        if self._deadlines.kill_at is None:
            self._deadlines.start(self._started_at, launch["time_limit_s"], before_end_s)
        self._told = {
            "started_at_ms": time.time_ns() // 1_000_000,
            "enforcement": {"memory": limits.memory, "cpus": limits.cpus},
        }
        self._note_ranks()
        try:
            os.write(STATUS_HANDLE, dumps(self._told).encode())
            os.close(STATUS_HANDLE)
        except OSError:
            pass

    def _note_ranks(self) -> None:
        """Leave word which ranks run: the id of one that has ended may become a stranger's."""
        alive = [
            {"rank": r.number, "pid": r.pid, "start_time": r.start_time}
            for r in self._ranks
            if r.status is None
        ]
        self._note("started.json", self._told | {"ranks": alive})

    def _stop(self, cause: str, message: str, grace_s: float) -> None:
        """End all ranks; the first cause stays, a later request can only shorten the grace."""
        self._verdict.stop(cause, message)
        is_first = self._deadlines.kill_at is None
        self._deadlines.stop(time.monotonic(), grace_s)
        # Never twice: to many programs a second SIGTERM says that they should not save their work.
        if is_first and grace_s > 0:
            for rank in self._ranks:
                rank.send(signal.SIGTERM)
                rank.send(signal.SIGCONT)

    def _reap(self) -> None:
        """Take note of every child that ended: ranks, and orphans that became ours."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._cpu_s += usage.ru_utime + usage.ru_stime
            self._watch.peak_bytes = max(self._watch.peak_bytes, usage.ru_maxrss * 1024)
            for rank in self._ranks:
                if rank.pid == pid:
                    self._end(rank, os.waitstatus_to_exitcode(status))

    def _end(self, rank: Rank, status: int) -> None:
        """A rank ended; the others end with it when it failed."""
        rank.status = status
        while rank.error_handle >= 0:
            self._hear(rank)
        self._verdict.end(rank.number, status)
        if self._have_ranks_ended():
            self._ended_at = time.monotonic()
            self._ended_at_ms = time.time_ns() // 1_000_000
            return
        if status != 0:
            self._stop(FAILED, "", self._launch["grace_s"])
        if self._told:
            self._note_ranks()

    def _have_ranks_ended(self) -> bool:
        return all(rank.status is not None for rank in self._ranks)

    def _act(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        due = self._deadlines
        if due.notice_at is not None and now >= due.notice_at:
            due.notice_at = None
            self._give_notice()
        if due.limit_at is not None and now >= due.limit_at:
            text = f"ran longer than its time limit of {self._launch['time_limit_s']} s"
            self._stop("time_limit", text, self._launch["grace_s"])
        if now >= self._watch.next_at and self._watch.is_over(now):
            self._stop("out_of_memory", "", 0)
        if due.kill_at is not None and now >= due.kill_at:
            self._killed_at = now if self._killed_at is None else self._killed_at
            kill_descendants([os.getpid()])
            due.kill_at = now + self._period_s()

    def _period_s(self) -> float:
        return STUCK_PERIOD_S if self._stuck_pids else CLEAN_S

    def _give_notice(self) -> None:
        notice = self._launch["signal"]
        if notice["to"] == "shell":
            self._ranks[0].send(notice["number"], whole_group=False)
            return
        for rank in self._ranks:
            rank.send(notice["number"])

    def _is_over(self) -> bool:
        """Whether nothing of the attempt is left; what outlives the ranks is ended first."""
        self._tell_if_stuck()
        if not self._have_ranks_ended():
            return False
        left = descendants([os.getpid()], list_processes()) if _has_children() else []
        if not left:
            return True
        if not self._is_cleaning:
            self._is_cleaning = True
            self._deadlines.clean(time.monotonic(), self._launch["grace_s"])
        for process in left:
            if (process.pid, process.start_time) not in self._warned:
                self._warned.add((process.pid, process.start_time))
                send_signal(process.pid, process.start_time, signal.SIGTERM)
                send_signal(process.pid, process.start_time, signal.SIGCONT)
        return False

    def _tell_if_stuck(self) -> None:
        """Note, once, that what was killed does not die: the attempt is not over before it has."""
        if self._stuck_pids or self._killed_at is None:
            return
        if time.monotonic() - self._killed_at >= STUCK_S:
            left = descendants([os.getpid()], list_processes())
            self._stuck_pids = [process.pid for process in left]
            if left:
                self._note("stuck.json", self._stuck_pids)

    def _outcome(self) -> dict[str, Any]:
        """The attempt's ``Outcome``, once nothing of it runs."""
        now = time.monotonic()
        ended_at = now if self._ended_at is None else self._ended_at
        started_at = ended_at if self._started_at is None else self._started_at
        logs = [rank.log for rank in self._ranks]
        lost = sum(log.lost_bytes for log in logs)
        return self._verdict.decide(self._limits.out_of_memory_kills() > 0) | {
            "ended_at_ms": self._ended_at_ms or time.time_ns() // 1_000_000,
            "run_ms": int((ended_at - started_at) * 1000),
            "memory_peak_bytes": self._watch.peak_bytes,
            "cpu_ms": int(self._cpu_s * 1000),
            "output_bytes": sum(log.written_bytes for log in logs),
            "output_lost_bytes": lost + (self._copy.lost_bytes if self._copy else 0),
            "output_dropped_bytes": sum(log.dropped_bytes for log in logs),
        }
