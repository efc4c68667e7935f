"""Runs a plan under a record: what began, how far it is, and how it ended, whatever ends it.

Within a job of mlsched its progress is the job's progress too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mlsched.api.pipelines.loading import Target
from mlsched.api.pipelines.records import (
    PipelineRun,
    PipelineRuns,
    RunError,
    RunState,
    make_id,
    this_process,
    utc_text,
)
from mlsched.api.pipelines.tracebacks import chain_of, clean, describe, user_traceback
from mlsched.api.progress import progress as tell_job
from mlsched.errors import MlschedError, PipelineError, StoreFullError
from mlsched_pipelines import Plan, RunReport, open_dataset, run
from mlsched_pipelines.progress import Progress
from mlsched_pipelines.starting import start_engine

SAVE_PERIOD_S = 1.0
"""Between two records of a run's progress."""

_MESSAGE_MAX = 10_000
_OWN_CLUSTERS = ("dask", "ray")
"""Engines whose workers are held to a bound on memory; of others it is kept by estimate."""


class EngineChoice(Struct, frozen=True):
    """Where a run's tasks are computed."""

    engine: str = "local"
    """``local``, ``dask``, ``ray``, or the address of a cluster: ``dask://HOST:PORT``."""
    workers: int | None = None
    memory_max_bytes: int | None = None
    job: str = ""
    """Id of the job whose nodes are the workers."""


def begin(  # noqa: PLR0913 - what names a run
    plan: Plan,
    target: Target,
    choice: EngineChoice,
    *,
    directory: str,
    parameters: dict[str, str],
    interval: str = "",
    retry_of: str = "",
) -> PipelineRun:
    """The record of a run that is about to begin; nothing is written yet.

    Args:
        directory: Working directory, from which a retry runs too.
    """
    dataset = str(plan.writes().dataset)
    return PipelineRun(
        id=make_id(),
        pipeline=dataset.rstrip("/").rpartition("/")[2],
        file=str(target.file),
        name=target.name,
        directory=directory,
        parameters=parameters,
        interval=interval,
        engine=choice.engine,
        workers=choice.workers,
        memory_max_bytes=choice.memory_max_bytes,
        dataset=dataset,
        plan_hash=plan.plan_hash,
        started_at=utc_text(),
        retry_of=retry_of,
        process=this_process(),
        job=choice.job,
    )


class RecordedRun:
    """One run with its record.

    Args:
        runs: Where records are kept.
        record: From `begin`.
        cluster: What must be there for the engine, entered under the record; nothing by default.
        on_progress: Called after every task, and at least every 5 s, in the caller's thread.
        on_problem: Takes one line when the end of the run cannot be recorded.
    """

    def __init__(
        self,
        runs: PipelineRuns,
        record: PipelineRun,
        cluster: AbstractContextManager[None] | None = None,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.record = record
        self._runs = runs
        self._cluster = cluster or nullcontext()
        self._on_progress = on_progress
        self._on_problem = on_problem
        self._saved_s = time.monotonic()

    def execute(self, plan: Plan) -> PipelineRun:
        """Compute and publish; returns the record of a run that succeeded.

        Raises:
            KeyboardInterrupt: it was stopped; the record says so.
            PipelineError: as `mlsched_pipelines.run`; the record has the error.
            StoreFullError: the beginning of the run cannot be recorded, or its output written.
        """
        self._runs.create(self.record)
        try:
            report = self._run(plan)
        except KeyboardInterrupt:
            self.interrupt()
            raise
        except OSError as error:
            failed = PipelineError(
                f"The run failed: {clean(_system_text(error))}.",
                "Look at what is there, and whether you may read and write it; then run it again.",
            )
            failed.__cause__ = error
            self._fail(failed)
            raise failed from error
        except BaseException as error:
            self._fail(error)
            raise
        try:
            self._succeed(report)
        except KeyboardInterrupt:
            # What is published stays published: Ctrl-C came too late to stop anything.
            self._succeed(report)
        return self.record

    def interrupt(self) -> None:
        """Record that the run was stopped, unless it has ended before."""
        if self.record.state is RunState.RUNNING:
            self._end(state=RunState.INTERRUPTED)

    def _run(self, plan: Plan) -> RunReport:
        record = self.record
        held = record.memory_max_bytes if record.engine in _OWN_CLUSTERS else None
        options = {"workers": record.workers, "memory_max_bytes": held}
        with self._cluster, start_engine(record.engine, **options) as engine:
            return run(
                plan,
                interval=record.interval,
                engine=engine,
                memory_max_bytes=record.memory_max_bytes,
                progress=self._progress,
            )

    def _progress(self, progress: Progress) -> None:
        self.record = replace(self.record, progress=progress_to_plain(progress))
        if time.monotonic() - self._saved_s >= SAVE_PERIOD_S:
            self._save()
            self._saved_s = time.monotonic()
        note = f"{progress.stage}, {progress.rows_in:,} rows"
        tell_job(progress.tasks_done, progress.tasks, unit="tasks", note=note)
        self._on_progress(progress)

    def _succeed(self, report: RunReport) -> None:
        self._end(
            state=RunState.SUCCEEDED,
            pipeline=report.key.pipeline,
            dataset=str(report.dataset),
            plan_hash=report.key.plan_hash,
            counts=msgspec.to_builtins(report.counts),
            version=report.version,
            digest=_digest_of(report),
            files=report.files,
            tasks_resumed=report.tasks_resumed,
            published=report.published,
            wall_s=round(report.wall_s, 3),
        )

    def _fail(self, error: BaseException) -> None:
        self._end(state=RunState.FAILED, error=error_to_record(error))

    def _end(self, **changes: Any) -> None:
        self.record = replace(self.record, ended_at=utc_text(), **changes)
        self._save()

    def _save(self) -> None:
        try:
            self._runs.save(self.record)
        except StoreFullError as error:
            self._on_problem(error.message)


def _system_text(error: OSError) -> str:
    """``Permission denied: /data/in.csv``."""
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _digest_of(report: RunReport) -> str | None:
    """The digest of the version that the run published; None when that is gone already."""
    try:
        return open_dataset(report.dataset, version=report.version).digest
    except (MlschedError, OSError):
        return None


def progress_to_plain(progress: Progress) -> dict[str, Any]:
    """Progress as JSON has it, with the speed and the time to go."""
    eta_s = progress.eta_s
    plain: dict[str, Any] = msgspec.to_builtins(progress)
    plain["wall_s"] = round(progress.wall_s, 3)
    plain["bytes_per_s"] = round(progress.bytes_per_s)
    plain["eta_s"] = None if eta_s is None else round(eta_s, 1)
    return plain


def error_to_record(error: BaseException) -> RunError:
    """An error as a record keeps it; the type is that of what the user's code raised."""
    cause = chain_of(error)[0]
    message = error.message if isinstance(error, MlschedError) else describe(error)
    hint = error.hint if isinstance(error, MlschedError) else ""
    return RunError(
        type(cause).__qualname__,
        clean(message)[:_MESSAGE_MAX],
        clean(hint)[:_MESSAGE_MAX],
        user_traceback(error),
    )
