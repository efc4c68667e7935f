"""``mlsched pipeline``: data pipelines in Python files, and the records of their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlsched.cli.catalogue import Entry
from mlsched.cli.options import PipelineRunArgument
from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.api.pipelines.records import PipelineRuns

COMMANDS = {
    "run": Entry("mlsched.cli.pipeline_run:run", "Run a pipeline and publish its output."),
    "submit": Entry(
        "mlsched.cli.pipeline_submit:submit", "Run a pipeline as a job on several nodes."
    ),
    "plan": Entry("mlsched.cli.pipeline_plan:plan", "Show what a run would do and read."),
    "ls": Entry("mlsched.cli.pipeline:list_runs", "List runs, the newest first."),
    "show": Entry("mlsched.cli.pipeline:show", "Show everything about a run."),
    "retry": Entry("mlsched.cli.pipeline_retry:retry", "Run again what a run was to do."),
    "member": Entry("mlsched.cli.pipeline_member:member", ""),
}

RUNS_SHOWN_MAX = 20


def refuse_cluster(session: Session) -> None:
    """These commands are about runs in this process and their records here.

    Raises:
        ConfigError: the context is a cluster.
    """
    if session.is_local:
        return
    from shlex import quote

    from mlsched.errors import ConfigError

    raise ConfigError(
        f"this is about runs of this machine, not of the context {session.context!r}.",
        "As a job of that cluster, with an image that has mlsched: "
        f"mlsched -c {quote(session.context)} pipeline submit FILE.py:NAME",
    )


def open_runs(session: Session) -> PipelineRuns:
    """The records of this user's runs; files that are none are told of."""
    from mlsched.api.pipelines.records import PipelineRuns
    from mlsched.cli.render.texts import one_line

    return PipelineRuns.of_user(session.paths, lambda line: session.tell(one_line(line)))


def list_runs(
    session: Session,
    all_runs: Annotated[bool, typer.Option("--all", "-A", help="All that are recorded.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-L", metavar="N", help="Only the newest N.")
    ] = RUNS_SHOWN_MAX,
) -> int:
    """List the runs that you started on this machine, the newest first.

    The newest 1000 are kept. INTERRUPTED is a run that was stopped, or whose process is gone.
    """
    from mlsched.errors import SpecError

    refuse_cluster(session)
    if limit < 1:
        raise SpecError(f"--limit: expected a number above 0, found {limit}.", "--all shows all.")
    records = open_runs(session)
    ids = records.list_ids()
    runs = records.read_newest(None if all_runs else limit)

    def text() -> str:
        from mlsched.api.pipelines.records import shorten_ids
        from mlsched.cli.render.pipelines import runs_table
        from mlsched.cli.render.tables import terminal_width
        from mlsched.cli.render.texts import utc_now

        wide = session.output == "wide"
        style = {"color": session.has_color(), "heads": session.headers}
        shown = {} if wide else shorten_ids(ids)
        return runs_table(runs, utc_now(), shown, wide=wide, width=terminal_width(), **style)

    session.emit([run.to_plain() for run in runs], text, [run.id for run in runs])
    if session.is_data:
        return 0
    if not runs:
        session.tell("no runs; 'mlsched pipeline run FILE.py:NAME' starts one.")
    elif len(ids) > len(runs) and not all_runs:
        session.tell(f"{len(ids) - len(runs)} more; with --all all are shown.")
    return 0


def show(session: Session, run: PipelineRunArgument) -> int:
    """Show state, counts, dataset, parameters, error and user's traceback of a run."""
    refuse_cluster(session)
    found = open_runs(session).find(run)

    def text() -> str:
        from mlsched.cli.render.pipelines import run_text
        from mlsched.cli.render.texts import utc_now

        return run_text(found, utc_now())

    session.emit(found.to_plain(), text, [found.id])
    return 0
