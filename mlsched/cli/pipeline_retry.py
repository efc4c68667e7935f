"""``mlsched pipeline retry``: the same file, name, parameters and interval again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlsched.cli.options import EngineMemoryOption, PipelineRunArgument, WorkersOption
from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.api.pipelines.records import PipelineRun
    from mlsched.api.pipelines.running import EngineChoice

EXAMPLES = """
mlsched pipeline retry paces
mlsched pipeline retry 20261126-101530 --engine dask --workers 4
"""


def retry(
    session: Session,
    run: PipelineRunArgument,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="Instead of the one before.")
    ] = "",
    workers: WorkersOption = 0,
    memory: EngineMemoryOption = "",
) -> int:
    """Run the same file, name, parameters and interval again, from the same directory.

    Tasks that the run before has finished are taken over, and a run that was published is not
    computed again. A plan that has changed since is a new run, and takes nothing over.
    """
    from mlsched.api.pipelines.loading import load_pipeline, parse_target
    from mlsched.cli.pipeline import open_runs, refuse_cluster
    from mlsched.cli.pipeline_run import carry_out, frames_shown, own_output

    refuse_cluster(session)
    before = open_runs(session).find(run)
    _check(before)
    os.chdir(before.directory)
    choice = _choose(before, engine, workers, memory)
    with frames_shown(session), own_output(session):
        pipeline = load_pipeline(parse_target(f"{before.file}:{before.name}"))
        plan = pipeline.make_plan(before.parameters, before.interval)
    if before.plan_hash and plan.plan_hash != before.plan_hash:
        session.tell(f"the plan has changed since {before.id}: this is a new run from the start.")
    return carry_out(
        session, plan, pipeline.target, choice, before.parameters, before.interval,
        retry_of=before.id,
    )  # fmt: skip


def _check(before: PipelineRun) -> None:
    """Whether a run can be tried again here.

    Raises:
        ConflictError: it still runs.
        PipelineError: its file or directory is gone.
    """
    from mlsched.errors import ConflictError, PipelineError

    if before.state == "RUNNING":
        where = f"process {before.process.pid} of {before.process.host}" if before.process else "?"
        raise ConflictError(
            f"{before.id} still runs: {where}.", "Stop it there by Ctrl-C, or wait for its end."
        )
    for what, path in (("file", Path(before.file)), ("directory", Path(before.directory))):
        if not (path.is_file() if what == "file" else path.is_dir()):
            raise PipelineError(
                f"the {what} of {before.id} is gone: {path}.",
                f"Run it from where it is now: {command_of(before)}",
            )


def command_of(before: PipelineRun) -> str:
    """The command line of a run, its file by name alone."""
    import shlex

    words = ["mlsched", "pipeline", "run", f"{Path(before.file).name}:{before.name}"]
    words += ["--interval", before.interval] if before.interval else []
    for key, value in before.parameters.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _choose(before: PipelineRun, engine: str, workers: int, memory: str) -> EngineChoice:
    """What is given, else as the run before; another engine takes nothing from the one before."""
    from msgspec.structs import replace

    from mlsched.api.pipelines.running import EngineChoice
    from mlsched.cli.pipeline_run import choose_engine

    given = choose_engine(engine or before.engine, workers, memory)
    if given.engine != before.engine:
        return given
    kept = EngineChoice(before.engine, before.workers, before.memory_max_bytes)
    return replace(
        kept,
        workers=given.workers or kept.workers,
        memory_max_bytes=given.memory_max_bytes or kept.memory_max_bytes,
    )
