"""``mlsched cron``: jobs on a schedule."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlsched.cli.catalogue import Entry
from mlsched.cli.session import Session, write_error

COMMANDS = {
    "apply": Entry("mlsched.cli.cron:apply", "Add a schedule, or replace the one of its name."),
    "ls": Entry("mlsched.cli.cron:list_schedules", "List schedules and their next run."),
    "tick": Entry("mlsched.cli.cron:tick", "Submit what is due, each run once."),
}

HEADERS = ("NAME", "CRON", "TIME ZONE", "NEXT", "LAST", "STATE")


def apply(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Schedule document; - is stdin.")],
) -> int:
    """Add the schedule of a YAML document of kind Schedule, or replace the one of its name."""
    from mlsched.errors import SpecError
    from mlsched.specs.sources import read_text
    from mlsched.specs.trees import parse_tree

    document = parse_tree(read_text(file), source=file)
    if not isinstance(document, dict):
        raise SpecError("cron apply needs a document of kind Schedule.")
    found = session.client.call("schedule_apply", document=document)["schedule"]
    session.emit(found, lambda: f"{found['name']}: {_next(found)}", [found["name"]])
    session.hint("submit what is due: mlsched cron tick")
    return 0


def list_schedules(session: Session) -> int:
    """List the schedules."""
    found = session.client.call("schedule_list")["schedules"]

    def text() -> str:
        from mlsched.cli.render.tables import format_table, terminal_width

        if not found:
            return ""
        return format_table(
            HEADERS, list(map(_row, found)), width=terminal_width(), heads=session.headers
        )

    session.emit(found, text, [one["name"] for one in found])
    if not found and not session.is_data:
        session.tell("no schedules; 'mlsched cron apply FILE' adds one.")
    return 0


def tick(
    session: Session,
    now: Annotated[
        str, typer.Option("--now", metavar="TIME", help="As if it were this RFC 3339 time.")
    ] = "",
) -> int:
    """Submit a job for each tick that is due; two ticks at once submit each run once."""
    found = session.client.call("schedule_tick", now=now or None)

    def text() -> str:
        fired = [f"{one['job']} for {one['schedule']} at {one['tick']}" for one in found["fired"]]
        return "\n".join(fired)

    session.emit(found, text, [one["job"] for one in found["fired"]])
    for one in found["failed"]:
        write_error(f"error: {one['schedule']}: {one['error']['message']}")
    if not found["fired"] and not found["failed"] and not session.is_data:
        session.tell("nothing is due.")
    return 1 if found["failed"] else 0


def _row(schedule: dict[str, Any]) -> list[str]:
    from mlsched.cli.render.texts import format_local

    state = "suspended" if schedule["suspend"] else "active"
    return [
        schedule["name"],
        schedule["cron"] or "",
        schedule["time_zone"] or "",
        format_local(schedule["next_tick"]),
        format_local(schedule["last_tick"]),
        schedule["error"]["message"] if schedule["error"] else state,
    ]


def _next(schedule: dict[str, Any]) -> str:
    from mlsched.cli.render.texts import format_local

    if schedule["suspend"]:
        return "suspended"
    return f"next run at {format_local(schedule['next_tick'])}"
