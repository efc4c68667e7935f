"""``mlsched top``: the GPUs and the jobs of this machine, once or for ever."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsched.cli.session import Session, write
from mlsched.errors import NotFoundError

if TYPE_CHECKING:
    from mlsched.api.interfaces import AnyClient

EXAMPLES = """
mlsched top
mlsched top --once
"""

JsonObject = dict[str, Any]
JOBS_MAX = 50
PERIOD_S_MIN, PERIOD_S_MAX = 0.2, 86_400.0
LOCAL_PERIOD_S = 2.0
CLUSTER_PERIOD_S = 10.0
"""Each look lists the nodes and pods of the whole cluster."""


def top(
    session: Session,
    once: Annotated[bool, typer.Option("--once", help="Print it once.")] = False,
    period: Annotated[
        float,
        typer.Option(
            "--interval", metavar="SECONDS", help="Between two looks: 2; 10 in a cluster."
        ),
    ] = 0.0,
) -> int:
    """Watch GPUs, jobs and progress; Ctrl-C leaves. Off a terminal it prints once."""
    if session.is_data:
        found = read_state(session)
        session.emit(found, str, [job["name"] for job in found["jobs"]])
        return 0
    if once or not sys.stdout.isatty():
        return _print_once(session)
    default_s = LOCAL_PERIOD_S if session.is_local else CLUSTER_PERIOD_S
    return _redraw(session, min(max(PERIOD_S_MIN, period or default_s), PERIOD_S_MAX))


def read_state(session: Session) -> JsonObject:
    """The node and its active jobs, running ones with their progress."""
    client = session.client
    node = client.call("node")
    jobs = client.call("list", all=False, limit=JOBS_MAX, state=None, queue=None)["jobs"]
    shown = [job if job["state"] != "RUNNING" else _show(client, job) for job in jobs]
    return {"node": node, "jobs": [job for job in shown if job is not None]}


def _show(client: AnyClient, job: JsonObject) -> JsonObject | None:
    """With its progress; None where it was deleted meanwhile."""
    try:
        return dict(client.call("show", job=job["id"]))
    except NotFoundError:
        return None


def _print_once(session: Session) -> int:
    from mlsched.cli.render.dashboards import dashboard_text

    write(dashboard_text(read_state(session), color=session.has_color()))
    return 0


def _redraw(session: Session, period_s: float) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from mlsched.cli.looking import Looks
    from mlsched.cli.render.dashboards import dashboard_text

    color = session.has_color()
    console = Console(no_color=not color)

    looks = Looks(lambda: read_state(session))

    def view() -> Text:
        return Text.from_ansi(dashboard_text(looks.look(), color=color, width=console.width))

    try:
        with Live(view(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(period_s)
                live.update(view(), refresh=True)
    except KeyboardInterrupt:
        return 0
