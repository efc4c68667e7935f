"""``mlsched cancel``: ask jobs to end."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from mlsched.cli.ls import parse_states
from mlsched.cli.options import GraceOption, JobsArgument
from mlsched.cli.session import Session

EXAMPLES = """
mlsched cancel train-1
mlsched cancel train-1 --grace 2m
mlsched cancel --state PENDING --yes
"""


def cancel(  # noqa: PLR0913 - one parameter an option
    session: Session,
    jobs: JobsArgument = None,
    *,
    grace: GraceOption = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="Jobs with this label."),
    ] = None,
    state: Annotated[str, typer.Option("--state", help="Jobs in these states.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All jobs that have not ended.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Ask jobs to end: SIGTERM, a grace, then SIGKILL to all that is left of them.

    On a terminal it asks before it cancels several jobs that were not named.
    """
    from mlsched.cli.requests import tell_warnings
    from mlsched.errors import SpecError
    from mlsched.specs.flags import read_seconds

    grace_s = read_seconds(grace, "--grace") if grace else None
    names = list(jobs or [])
    states = parse_states(state)
    if names and (label or state or every):
        raise SpecError(
            "name jobs, or choose them by --label, --state or --all: not both.",
            "What would be cancelled is shown by: mlsched ls",
        )
    if label or state or every:
        names = _select(session, label or [], states)
        if not names:
            session.tell("no such jobs; nothing was cancelled.")
            return 0
        if len(names) > 1 and not yes:
            _confirm(session, names)
    if not names:
        raise SpecError("name the jobs to cancel, or choose them by --label, --state or --all.")
    answer = session.client.call(
        "cancel", jobs=list(dict.fromkeys(names)), states=states, grace_s=grace_s
    )
    tell_warnings(session, answer)
    found = answer["jobs"]
    session.emit(found, lambda: "\n".join(map(_line, found)), [job["name"] for job in found])
    return 0


def _select(session: Session, labels: list[str], states: list[str]) -> list[str]:
    from mlsched.errors import SpecError

    wanted = dict(one.partition("=")[::2] for one in labels)
    if not all(wanted) or not all("=" in one for one in labels):
        raise SpecError("--label: expected KEY=VALUE.")
    found = session.client.call("list", all=False, limit=None, state=states or None, queue=None)
    return [
        str(job["name"])
        for job in found["jobs"]
        if all(job["labels"].get(key) == value for key, value in wanted.items())
    ]


def _confirm(session: Session, names: list[str]) -> None:
    if sys.stdin.isatty() and sys.stderr.isatty() and session.may_ask:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        typer.confirm(f"Cancel {len(names)} jobs ({shown})?", abort=True, err=True)


def _line(job: dict[str, Any]) -> str:
    if job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
        return f"{job['name']} has ended: {job['state']}"
    return f"{job['name']} is being cancelled"
