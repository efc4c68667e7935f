"""``mlsched pipeline retry``: the same file, name, parameters and interval again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlsched.cli.options import PipelineRunArgument
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
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Tasks at once; as before unless given."),
    ] = None,
    memory: Annotated[
        str,
        typer.Option("--memory", metavar="SIZE", help="Most memory that tasks may use; as before."),
    ] = "",
) -> int:
    """Run the same file, name, parameters and interval again, from the same directory.

    Tasks that the run before has finished are taken over, and a run that was published is not
    computed again. A plan that has changed since is a new run, and takes nothing over.

    A run that was a job ('pipeline submit') is submitted again as one; with --engine it runs here
    instead.
    """
    from mlsched.api.pipelines.loading import load_pipeline, parse_target
    from mlsched.cli.pipeline import open_runs, refuse_cluster
    from mlsched.cli.pipeline_run import carry_out, frames_shown, own_output

    refuse_cluster(session)
    before = open_runs(session).find(run)
    _check(before)
    if before.job and not engine:
        return _submit_again(session, before, is_changed=bool(workers is not None or memory))
    os.chdir(before.directory)
    choice = _choose(before, engine, workers, memory)
    with frames_shown(session), own_output(session):
        pipeline = load_pipeline(parse_target(f"{before.file}:{before.name}"))
        plan = pipeline.make_plan(before.parameters, before.interval)
    if before.plan_hash and plan.plan_hash != before.plan_hash:
        session.tell(f"the plan has changed since {before.id}: this is a new run from the start.")
    return carry_out(
        session, plan, pipeline.target, choice, before.parameters, before.interval,
        directory=before.directory, retry_of=before.id,
    )  # fmt: skip


def _submit_again(session: Session, before: PipelineRun, *, is_changed: bool) -> int:
    """Submit the job of a run again, whose cluster ended with it; prints the new job's name.

    Raises:
        NotFoundError: the job is no longer known.
        SpecError: workers or memory are given, which a job says by node.
    """
    from mlsched.cli.retry import retry as retry_job
    from mlsched.errors import NotFoundError, SpecError

    here = f"To run it here: mlsched pipeline retry {before.id} --engine local"
    if is_changed:
        raise SpecError(
            f"{before.id} was the job {before.job}, whose nodes are its workers: "
            "--workers and --memory need --engine.",
            here,
        )
    try:
        code = retry_job(session, before.job)
    except NotFoundError as error:
        raise NotFoundError(
            f"{before.id} was the job {before.job}, which is no longer known.", here
        ) from error
    session.tell(f"{before.id} was the job {before.job}; it is submitted again.")
    return code


def _check(before: PipelineRun) -> None:
    """Whether a run can be tried again here.

    Raises:
        ConflictError: it still runs.
        PipelineError: its file or directory is gone.
    """
    from mlsched.errors import ConflictError, PipelineError

    if before.state == "RUNNING":
        where = f"process {before.process.pid} of {before.process.host}" if before.process else "?"
        stop = f"by 'mlsched cancel {before.job}'" if before.job else "there by Ctrl-C"
        raise ConflictError(
            f"{before.id} still runs: {where}.", f"Stop it {stop}, or wait for its end."
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
    words += ["--engine", before.engine] if before.engine != "local" and not before.job else []
    words += ["--interval", before.interval] if before.interval else []
    for key, value in before.parameters.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _choose(before: PipelineRun, engine: str, workers: int | None, memory: str) -> EngineChoice:
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
