"""``run`` and ``submit --follow``: a job's output on our streams until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mlsched.api.following import Follower, Output
from mlsched.api.logs import Record
from mlsched.api.watching import exit_code_of_jobs
from mlsched.cli.render.outputs import Printer
from mlsched.cli.render.texts import one_line
from mlsched.cli.session import Session, write_error
from mlsched.errors import MlschedError
from mlsched.units import format_bytes

JsonObject = dict[str, Any]

QUIET_S = 1.0
"""A job that waits longer than this is worth a word."""

CLUSTER_QUIET_S = 3.0
ASK_S = 60.0
"""The same in a cluster, where telling why takes lists of everything: how often that is done."""

ENDS_MAX = 5
"""Jobs of whose end is told, one by one."""

_PLAIN_ENDS = ("Completed", "ExitedWithError")


class Waiting:
    """Tells on standard error for what jobs wait, each reason once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._quiet_s = QUIET_S if session.is_local else CLUSTER_QUIET_S
        self._asks_at = 0.0

    def look(self, jobs: dict[str, JsonObject]) -> None:
        """Call this now and then."""
        now = time.monotonic()
        for job_id, job in jobs.items():
            if job["state"] != "PENDING":
                self._due.pop(job_id, None)
                continue
            due = self._due.setdefault(job_id, now + self._quiet_s)
            if now < due:
                continue
            message = one_line(str((job.get("reason") or self._ask(job_id)).get("message", "")))
            if message and self._told.get(job_id) != message:
                self._told[job_id] = message
                self._session.tell(f"{job['name']} waits: {message}")

    def _ask(self, job_id: str) -> JsonObject:
        """Why a job of a cluster waits, which its MLJob does not say; now and then, of one job."""
        now = time.monotonic()
        if self._session.is_local or now < self._asks_at:
            return {}
        self._asks_at = now + ASK_S
        try:
            return self._session.client.call("why", job=job_id)["reason"] or {}
        except MlschedError:
            return {}


def prefix_of(job: JsonObject, *, several_jobs: bool, several_ranks: bool) -> Callable[[int], str]:
    """What stands before the lines of a rank: ``[index] ``, ``[rank] ``, both, or nothing."""
    first = f"{job['array_index']}" if job["array_index"] is not None else job["name"]

    def prefix(rank: int) -> str:
        if several_jobs:
            return f"[{first}.{rank}] " if several_ranks else f"[{first}] "
        return f"[{rank}] " if several_ranks else ""

    return prefix


def follow(session: Session, job: JsonObject, *, several_ranks: bool) -> int:
    """Stream a job that was just submitted; returns what the command exits with.

    Ctrl-C leaves: it tells that the job goes on, and returns 130.

    Raises:
        MlschedError: it cannot be followed any more; it is told that the job goes on.
    """
    several_jobs = job.get("array") is not None
    printer = Printer(split=True, prefixed=several_jobs or several_ranks)
    try:
        follower = Follower(session.client, [job["id"]], blocks=not printer.by_line)
        print_output(
            session, follower, printer, several_jobs=several_jobs, several_ranks=several_ranks
        )
    except KeyboardInterrupt:
        return tell_detached(session, job)
    except MlschedError:
        tell_detached(session, job)
        raise
    tell_ends(session, follower.jobs, but=_PLAIN_ENDS)
    return exit_code_of_jobs(follower.jobs.values())


def print_output(
    session: Session,
    follower: Follower,
    printer: Printer,
    *,
    several_jobs: bool,
    several_ranks: bool,
    takes: Callable[[Record], bool] = lambda record: True,
) -> None:
    """Print what jobs write until they end, tell why they wait, and what could not be shown."""
    waiting = Waiting(session)
    with follower:
        for item in follower:
            if isinstance(item, Output) and takes(item.record):
                prefix = prefix_of(item.job, several_jobs=several_jobs, several_ranks=several_ranks)
                printer.print(item.record, prefix(item.record.rank))
            elif item is None:
                printer.flush()
                waiting.look(follower.jobs)
        printer.finish()
    _tell_missing_output(session, follower)


def tell_detached(session: Session, job: JsonObject) -> int:
    """Say that the job goes on without us; returns 130."""
    lines = (
        f"\n{job['name']} goes on without this terminal.",
        f"follow: {session.next_command('logs -f', job)}",
        f"cancel: {session.next_command('cancel', job)}",
    )
    write_error("\n".join(lines))
    return 130


def _tell_missing_output(session: Session, follower: Follower) -> None:
    """Say which jobs wrote something that was not shown here."""
    for job in follower.jobs.values():
        name = job["name"]
        if missed := follower.missed_bytes(job["id"]):
            session.tell(
                f"{format_bytes(missed)} of {name}'s output were dropped before they could be"
                " shown, to bound its log."
            )
            session.hint(
                "--output-file FILE keeps everything; [logs] in config.toml sets the bound."
            )
        if lost := job["output_lost_bytes"]:
            session.tell(
                f"{format_bytes(lost)} of {name}'s output could not be written to the disk."
            )


def tell_ends(session: Session, jobs: dict[str, JsonObject], but: Sequence[str] = ()) -> None:
    """A word on jobs that did not succeed: `ENDS_MAX` of an array's, and how many more there are.

    Args:
        but: Codes of reasons of which nothing is told, since the job's own output tells it.
    """
    ended = [job for job in jobs.values() if job["state"] != "SUCCEEDED"]
    told = [(job, text) for job in ended if (text := _end_text(job, but))]
    for _, text in told[:ENDS_MAX]:
        session.tell(text)
    if len(told) > ENDS_MAX:
        session.tell(f"{len(told) - ENDS_MAX} more did not succeed.")
    for job in [job for job in ended if job["state"] == "FAILED"][:ENDS_MAX]:
        session.hint(f"explain: {session.next_command('why', job)}")


def _end_text(job: JsonObject, but: Sequence[str]) -> str:
    reason = job.get("reason") or {}
    if job["state"] == "CANCELLED" and reason.get("code") == "CancelledByUser":
        return f"{job['name']} was cancelled."
    if reason.get("code") in but:
        return ""
    return f"{job['name']} {job['state']}: {one_line(str(reason.get('message')))}"
