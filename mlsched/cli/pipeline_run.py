"""``mlsched pipeline run``: a plan from a Python file, computed here and published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlsched.cli.options import (
    EngineMemoryOption,
    EngineOption,
    IntervalOption,
    ParametersOption,
    PipelineArgument,
    WorkersOption,
)
from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.api.pipelines.loading import Target
    from mlsched.api.pipelines.records import PipelineRun
    from mlsched.api.pipelines.running import EngineChoice
    from mlsched_pipelines import Plan

EXAMPLES = """
mlsched pipeline run rides.py
mlsched pipeline run rides.py:daily --interval 2026-11-26 --set rows_max=1000
mlsched pipeline run rides.py:daily --engine dask --workers 4 --memory 8GiB
"""


def run(  # noqa: PLR0913, PLR0917 - one parameter an option
    session: Session,
    target: PipelineArgument,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    memory: EngineMemoryOption = "",
    interval: IntervalOption = "",
    settings: ParametersOption = None,
) -> int:
    """Run a pipeline of a Python file, and publish its output as a version of its dataset.

    FILE.py runs in this process, its directory first on the path. NAME is a Plan, or a function
    that returns one and takes its parameters from --interval and --set (int, float, bool or str,
    by annotation). FILE.py alone will do where it holds one Plan, or one function annotated
    '-> Plan'.

    A run that was published before is not computed again. Ctrl-C stops a run and exits with 130;
    finished tasks are kept, and 'mlsched pipeline retry' goes on from there.

    Each run is recorded in the state directory, with the values of --set: give no secrets there.
    """
    from mlsched.api.pipelines.loading import load_pipeline, parse_target
    from mlsched.api.pipelines.parameters import check_text, parse_settings
    from mlsched.cli.pipeline import refuse_cluster

    refuse_cluster(session)
    found = parse_target(target)
    given = parse_settings(settings or [])
    check_text(interval, "--interval")
    choice = choose_engine(engine, workers, memory)
    directory = str(Path.cwd())
    with frames_shown(session), own_output(session):
        pipeline = load_pipeline(found)
        plan = pipeline.make_plan(given, interval)
    return carry_out(session, plan, pipeline.target, choice, given, interval, directory=directory)


def choose_engine(engine: str, workers: int | None, memory: str) -> EngineChoice:
    """The options that say where a run is computed.

    Raises:
        SpecError: no engine's name or address, fewer workers than 1, or a size that is none.
    """
    from mlsched.api.pipelines.parameters import check_text
    from mlsched.api.pipelines.running import EngineChoice
    from mlsched.errors import SpecError
    from mlsched.units import parse_bytes
    from mlsched_pipelines.starting import ENGINES_HINT, is_engine

    if not is_engine(engine):
        raise SpecError(f"--engine: expected an engine, found {engine[:80]!r}.", ENGINES_HINT)
    if workers is not None and workers < 1:
        raise SpecError(f"--workers: expected a number above 0, found {workers}.")
    size_bytes = parse_bytes(memory, what="--memory") if memory else None
    return EngineChoice(check_text(engine, "--engine"), workers, size_bytes)


@contextmanager
def own_output(session: Session) -> Iterator[None]:
    """What users' code prints, here and in workers, goes to standard error when programs read ours.

    The file descriptor itself is turned, since workers inherit that.
    """
    import os
    import sys

    if not session.is_data:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def frames_shown(session: Session) -> Iterator[None]:
    """Print the user's frames of an error that passes, before the error itself is told."""
    from mlsched.errors import MlschedError

    try:
        yield
    except MlschedError as error:
        from mlsched.api.pipelines.tracebacks import user_traceback
        from mlsched.cli.render.texts import printable
        from mlsched.cli.session import write_error

        trace = getattr(error, "trace", "") or user_traceback(error)
        if trace and session.output != "json":
            write_error(printable(trace))
        raise


def carry_out(  # noqa: PLR0913 - what names a run
    session: Session,
    plan: Plan,
    target: Target,
    choice: EngineChoice,
    parameters: dict[str, str],
    interval: str,
    *,
    directory: str = "",
    retry_of: str = "",
    cluster: AbstractContextManager[None] | None = None,
) -> int:
    """Run a plan under a new record, with progress; tell how it ended. Gives the exit code.

    Args:
        directory: Where the file was run, which may have gone elsewhere; where we are by default.
        cluster: What must be there for the engine, and ends with the run.
    """
    from mlsched.api.pipelines.interrupts import Interrupts
    from mlsched.api.pipelines.running import RecordedRun, begin
    from mlsched.cli.pipeline import open_runs
    from mlsched.cli.pipeline_progress import make_meter
    from mlsched.errors import MlschedError

    record = begin(
        plan, target, choice, directory=directory or str(Path.cwd()), parameters=parameters,
        interval=interval, retry_of=retry_of,
    )  # fmt: skip
    meter = make_meter(session)
    recorded = RecordedRun(
        open_runs(session), record, cluster, on_progress=meter.show, on_problem=session.tell
    )

    def stop() -> None:
        # Ctrl-C ends a reader of ours too, such as tee: nobody to tell it to.
        with suppress(OSError):
            meter.stop()
            session.tell("stopping: tasks under way end first; a second Ctrl-C leaves at once.")

    session.paths.create()
    with frames_shown(session), Interrupts(stop, recorded.interrupt) as interrupts:
        try:
            with own_output(session), meter:
                ended = recorded.execute(plan)
        except KeyboardInterrupt:
            _emit(session, recorded.record)
            session.tell(f"go on later: mlsched pipeline retry {record.id}")
            return interrupts.exit_code
        except MlschedError as error:
            if recorded.record.error is not None:
                told = f"all of it: mlsched pipeline show {record.id}"
                error.hint = f"{error.hint}\n{told}" if error.hint else told
            raise
    _emit(session, ended)
    return 0


def _emit(session: Session, record: PipelineRun) -> None:
    from mlsched.cli.render.pipelines import summary_text

    session.emit(record.to_plain(), lambda: summary_text(record), [record.id])
