"""``mlsched logs``: the output of a job."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated, Any

import typer

from mlsched.cli.options import JobArgument
from mlsched.cli.session import Session

EXAMPLES = """
mlsched logs train-1
mlsched logs -f train-1
mlsched logs train-1 --tail 20 --timestamps
mlsched logs train-1 --rank 0 --since 10m
"""

JsonObject = dict[str, Any]


def logs(  # noqa: PLR0913 - one parameter an option
    session: Session,
    job: JobArgument,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on to its end; wait for its start.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", metavar="N", help="Only the last N lines.")] = -1,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Only of the last 10m, or since a time.")
    ] = "",
    rank: Annotated[str, typer.Option("--rank", metavar="N", help="Only this rank.")] = "all",
    timestamps: Annotated[bool, typer.Option("--timestamps", help="The time first.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only standard error.")] = False,
    previous: Annotated[bool, typer.Option("--previous", help="Of the attempt before.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send control characters to the terminal.")
    ] = False,
) -> int:
    """Print the output of a job, of all its ranks, in the order of its times.

    On a terminal, characters that would control it are shown instead, unless --raw is given.
    """
    from mlsched.cli.printing import Selection, follow_logs, print_logs
    from mlsched.cli.render.jobs import output_text

    if stderr and not session.is_local:
        from mlsched.errors import SpecError

        raise SpecError(
            "--stderr: a cluster keeps both streams of a job as one.",
            "Leave it out; a job that needs them apart writes one of them to a file.",
        )
    found = session.client.call("show", job=job)
    chosen = Selection(
        rank=_parse_rank(rank),
        tail=None if tail < 0 else tail,
        since=_parse_since(since),
        only_stderr=stderr,
        timestamps=timestamps,
        escape=not raw and sys.stdout.isatty(),
    )
    if follow and not previous:
        return follow_logs(session, found, chosen)
    number = _attempt(session, found, previous=previous)
    with session.client.open_outputs() as outputs:
        print_logs(outputs.fetch(found, number) if number else None, chosen, found)
    is_whole = not previous and chosen.is_whole
    if is_whole and (missing := output_text(found)):
        session.tell(f"Of {found['name']}'s output {missing}.")
    return 0


def _parse_rank(text: str) -> int | None:
    from mlsched.errors import SpecError

    if text == "all":
        return None
    if not text.isdecimal() or len(text) > 6:
        raise SpecError(f"--rank: expected a number or all, found {text[:20]!r}.")
    return int(text)


def _parse_since(text: str) -> str:
    """The RFC 3339 time that ``10m``, or a time with a zone, stands for; empty for none."""
    if not text:
        return ""
    from datetime import UTC, datetime

    from mlsched.cli.render.texts import utc_now
    from mlsched.errors import SpecError
    from mlsched.specs.flags import read_seconds

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = utc_now() - timedelta(seconds=read_seconds(text, "--since"))
    if at.tzinfo is None:
        raise SpecError(
            f"--since: {text[:40]!r} has no time zone.", "Such as 2026-11-26T13:00:00Z, or 10m."
        )
    try:
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    except OverflowError as error:
        raise SpecError(f"--since: {text[:40]!r} is at no time that a clock shows.") from error


def _attempt(session: Session, job: JsonObject, *, previous: bool) -> int:
    """Number of the newest attempt, or of the one before; 0 where there is no output."""
    from mlsched.errors import NotFoundError

    number = job["attempt"] - (1 if previous else 0)
    if previous and number < 1:
        raise NotFoundError(
            f"{job['name']} has no attempt before attempt {job['attempt']}.",
            f"Run '{session.next_command('logs', job)}' for the newest.",
        )
    return 0 if job.get("array") else number
