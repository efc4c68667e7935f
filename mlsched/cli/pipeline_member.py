"""``mlsched pipeline member``: one rank of a pipeline's job; ``submit`` writes the command."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from mlsched.cli.options import IntervalOption, ParametersOption
from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.api.pipelines.running import EngineChoice
    from mlsched_pipelines.members import Member


def member(  # noqa: PLR0913, PLR0917 - one parameter an option
    session: Session,
    file: Annotated[
        str, typer.Argument(metavar="FILE.py[:NAME]", help="A pipeline, or a text that travelled.")
    ],
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="dask or ray.")] = "dask",
    cpus: Annotated[int, typer.Option("--cpus", metavar="N", help="CPUs of this rank.")] = 1,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Memory of this rank.")
    ] = "",
    source: Annotated[
        str, typer.Option("--source", metavar="FILE.py[:NAME]", help="What FILE was called.")
    ] = "",
    interval: IntervalOption = "",
    settings: ParametersOption = None,
) -> int:
    """Be one rank of a job that runs a pipeline on a cluster of its own.

    Rank 0 runs the pipeline, as 'mlsched pipeline run' does, and exits as that would; other ranks
    work for it until it has ended. Written into jobs by 'mlsched pipeline submit'.
    """
    import os

    from mlsched.units import parse_bytes
    from mlsched_pipelines.members import ENGINES, read_member

    if engine not in ENGINES:
        from mlsched.errors import SpecError

        raise SpecError(f"--engine: expected {' or '.join(ENGINES)}, found {engine[:40]!r}.")
    memory_max_bytes = parse_bytes(memory, what="--memory") if memory else 0
    own = read_member(os.environ, cpus, memory_max_bytes)
    if own.rank == 0:
        return drive(session, own, engine, (file, source), settings or [], interval)
    from importlib import import_module

    return int(import_module(f"mlsched_pipelines.members.{engine}").run("worker", own))


def drive(
    session: Session,
    own: Member,
    engine: str,
    file: tuple[str, str],
    settings: list[str],
    interval: str,
) -> int:
    """Run the pipeline on the cluster of this job; returns the exit code."""
    import signal
    import sys
    from pathlib import Path

    from mlsched.api.pipelines.jobs import unpack_source
    from mlsched.api.pipelines.loading import load_pipeline, parse_target
    from mlsched.api.pipelines.parameters import parse_settings
    from mlsched.cli.pipeline_run import carry_out, frames_shown, own_output
    from mlsched_pipelines.members import private_folder

    # As an exception, so that all is put away that was begun.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with private_folder() as folder:
        path, source = file
        target = unpack_source(Path(path), source, Path(folder)) if source else parse_target(path)
        given = parse_settings(settings)
        with frames_shown(session), own_output(session):
            pipeline = load_pipeline(target)
            plan = pipeline.make_plan(given, interval)
        choice, cluster = prepare(own, engine, folder)
        return carry_out(session, plan, pipeline.target, choice, given, interval, cluster=cluster)


def prepare(
    own: Member, engine: str, folder: str
) -> tuple[EngineChoice, AbstractContextManager[None]]:
    """The engine of a run, and the cluster that it needs: within it all members are there."""
    import os
    from contextlib import nullcontext
    from importlib import import_module

    from mlsched.api.pipelines.running import EngineChoice
    from mlsched_pipelines.members.helpers import helped
    from mlsched_pipelines.memory import BUDGET_SHARE

    job = os.environ.get("MLSCHED_JOB_ID", "")
    budget_bytes = int(BUDGET_SHARE * own.memory_max_bytes * own.size) or None
    if own.size == 1:
        return EngineChoice(engine, own.cpus, budget_bytes, job), nullcontext()
    members = import_module(f"mlsched_pipelines.members.{engine}")
    address = members.configure(own, folder)
    # A bound on memory beside an address is refused where the engine's name is the same.
    bound = None if address == engine else budget_bytes
    return EngineChoice(address, None, bound, job), helped(engine, members.HELPERS, own)
