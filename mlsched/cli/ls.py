"""``mlsched ls``: jobs one a row."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from mlsched.cli.session import Session, write

EXAMPLES = """
mlsched ls
mlsched ls --all --limit 20
mlsched ls --state FAILED -o name
mlsched ls -w
"""

SHORT_STATES = {
    "PD": "PENDING",
    "CF": "STARTING",
    "R": "RUNNING",
    "CD": "SUCCEEDED",
    "F": "FAILED",
    "CA": "CANCELLED",
    "PR": "PREEMPTED",
}
"""Slurm's codes. Source: squeue(1), job state codes."""

REDRAW_S = 1.0
CLUSTER_REDRAW_S = 5.0
"""There each look has the API server send all jobs."""

TABLE_ROWS_MAX = 200
"""Rows of a table unless more are asked for: nobody reads more, and a long queue has thousands."""


def ls(
    session: Session,
    ended: Annotated[bool, typer.Option("--all", "-A", help="Ended jobs too.")] = False,
    state: Annotated[
        str, typer.Option("--state", metavar="STATES", help="Only these, by comma: PENDING or PD.")
    ] = "",
    queue: Annotated[str, typer.Option("--queue", "-q", "-p", help="Only this queue.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-L", help="At most so many; 0: all. Tables: 200.")
    ] = -1,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on as they change.")] = False,
) -> int:
    """List jobs: those that hold something, then those that wait, in order; arrays are one row."""
    from mlsched.cli.completing import remember

    if limit < 0:
        limit = 0 if session.is_data or session.output == "name" else TABLE_ROWS_MAX
    query = {
        "all": ended,
        "limit": limit or None,
        "state": parse_states(state) or None,
        "queue": queue or None,
    }
    if watch:
        return _watch(session, query)
    found = session.client.call("list", **query)
    jobs = found["jobs"]
    remember(session, [job["name"] for job in jobs[:100]])
    session.emit(jobs, lambda: _table(session, jobs), [job["name"] for job in jobs])
    if not jobs and not session.is_data:
        more = "" if ended else "; 'mlsched ls --all' shows those that ended"
        session.tell(f"no jobs{more}.")
    hidden = found["total"] - len(jobs)
    if hidden > 0 and not session.is_data:
        session.tell(f"{hidden} more; with --limit 0 all are shown.")
    return 0


def parse_states(text: str) -> list[str]:
    """States of ``--state``: full names or Slurm's short codes.

    Raises:
        SpecError: there is no such state, or nothing but commas: that would stand for all states.
    """
    from mlsched.errors import SpecError
    from mlsched.model.jobs import JobState

    found = []
    for word in filter(None, (part.strip().upper() for part in text.split(","))):
        name = SHORT_STATES.get(word, word)
        if name not in JobState.__members__:
            raise SpecError(
                f"--state: there is no state {word[:20]!r}.",
                f"One of: {', '.join(JobState.__members__)}.",
            )
        found.append(name)
    if text and not found:
        raise SpecError(
            f"--state: expected states, found {text[:20]!r}.",
            f"One of: {', '.join(JobState.__members__)}.",
        )
    return found


def _table(session: Session, jobs: list[dict[str, Any]]) -> str:
    from mlsched.cli.render.jobs import jobs_table
    from mlsched.cli.render.tables import terminal_width
    from mlsched.cli.render.texts import utc_now

    if not jobs:
        return ""
    return jobs_table(
        jobs,
        utc_now(),
        wide=session.output == "wide",
        width=terminal_width(),
        color=session.has_color(),
        heads=session.headers,
    )


def _watch(session: Session, query: dict[str, Any]) -> int:
    """Redraw the table for ever; with ``-o json`` one JOB object a line for each change."""
    from mlsched.cli.looking import Looks
    from mlsched.cli.render.documents import to_json_line

    if session.is_data:
        from mlsched.api.watching import JobWatch

        states, queue = query["state"], query["queue"]
        with JobWatch(session.client, None, until=None) as changes:
            while True:
                for job in changes.poll(3600.0):
                    if (not states or job["state"] in states) and queue in (None, job["queue"]):
                        write(job["name"] if session.output == "name" else to_json_line(job))
    looks = Looks(lambda: session.client.call("list", **query)["jobs"])
    shown = None
    while True:
        jobs = looks.look()
        text = _table(session, jobs) or "no jobs"
        if sys.stdout.isatty():
            write(f"\x1b[H\x1b[2J{text}")
        elif jobs != shown:
            write(text)
        shown = jobs
        time.sleep(REDRAW_S if session.is_local else CLUSTER_REDRAW_S)
