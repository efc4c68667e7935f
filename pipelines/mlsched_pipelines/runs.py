"""Running a plan: tasks through an engine, the laws checked, one commit.

A run is named by (pipeline, interval, plan hash). A run that is published already is not done
again; one that was interrupted goes on from the markers of its finished tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mlsched.errors import MlschedError, PipelineError
from mlsched_pipelines.engines import Call, Engine, Outcome
from mlsched_pipelines.engines.local import LocalEngine
from mlsched_pipelines.manifests import (
    FileRecord,
    RunKey,
    RunRecord,
    TaskRecord,
    encode_schema,
)
from mlsched_pipelines.plans import Plan
from mlsched_pipelines.rows import Counts, too_many_rejects
from mlsched_pipelines.schema import check_row_count
from mlsched_pipelines.stores.commits import commit, last_manifest
from mlsched_pipelines.stores.files import full_disk_explained, make_folder
from mlsched_pipelines.stores.shards import check_size, read_shard
from mlsched_pipelines.tasks import Assignment, read_marker, run_sort, run_split


class Progress(Struct, frozen=True):
    """How far a run is."""

    tasks_done: int
    tasks: int
    rows_out: int


class RunReport(Struct, frozen=True):
    """What a run did."""

    dataset: str
    version: int
    key: RunKey
    counts: Counts
    files: int
    tasks_resumed: int
    """Tasks that an earlier, interrupted try had finished."""
    published: bool
    """False when the run had been published before; then nothing was computed."""
    wall_s: float


def run(
    plan: Plan,
    *,
    pipeline: str = "",
    interval: str = "",
    engine: Engine | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Compute a plan and publish its output as the dataset's next version.

    Args:
        plan: A plan that ends with ``write``.
        pipeline: Name of the pipeline; the dataset's folder name by default.
        interval: The piece of time or data that this run covers (``2026-11-26``). A new run of an
            interval replaces its rows; other intervals stay.
        engine: Where tasks run; threads of this process by default.
        progress: Called after every task, in the caller's thread.

    Raises:
        SchemaMismatchError: data breaks a contract beyond the budget for rejects.
        PipelineError: a function raised, the input changed, or counts do not add up.
        StoreFullError: the disk is full; finished tasks are kept.
    """
    started = time.monotonic()
    assignment, key = _assign(plan, pipeline, interval)
    with ExitStack() as stack:
        used = engine if engine is not None else stack.enter_context(LocalEngine())
        try:
            run_of_key = _find_published(assignment, key) or _compute(
                assignment, key, used, progress
            )
        except (MlschedError, OSError):
            # Another process may have published this very run and cleaned up under our feet.
            found = _find_published(assignment, key)
            if found is None:
                raise
            run_of_key = found
    record, version, files, resumed, published = run_of_key
    return RunReport(
        str(assignment.root),
        version,
        key,
        record.counts,
        files,
        resumed,
        published,
        time.monotonic() - started,
    )


Published = tuple[RunRecord, int, int, int, bool]
"""Run, version, number of files, tasks resumed, and whether this process published it."""


def _assign(plan: Plan, pipeline: str, interval: str) -> tuple[Assignment, RunKey]:
    root = Path(plan.writes().dataset)
    key = RunKey(pipeline or root.name, interval, plan.plan_hash)
    return Assignment(plan, key.run_id), key


def _find_published(assignment: Assignment, key: RunKey) -> Published | None:
    last = last_manifest(assignment.root)
    found = last.find_run(key) if last is not None else None
    if last is None or found is None:
        return None
    return found, last.version, sum(key.run_id in file.path for file in last.files), 0, False


def _compute(
    assignment: Assignment, key: RunKey, engine: Engine, progress: Callable[[Progress], None] | None
) -> Published:
    plan = assignment.plan
    with full_disk_explained(assignment.root):
        make_folder(assignment.folder)
    staged, resumed = _run_tasks(assignment, engine, progress)
    last, sorted_here = _run_last(assignment, engine, staged)
    counts = _total(staged, last)
    _check_laws(assignment, counts, staged, last)
    files = tuple(file for record in last for file in record.files)
    records = {id(record): record for record in (*staged, *last)}.values()
    rejects = tuple(record.rejects for record in records if record.rejects is not None)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = RunRecord(key, key.run_id, counts, rejects, now)
    with full_disk_explained(assignment.root):
        made, won = commit(
            assignment.root, record, files, encode_schema(plan.writes().contract.schema)
        )
    if sorted_here:
        _remove_staged(assignment, staged)
    return record, made.version, len(files), resumed, won


def _run_tasks(
    assignment: Assignment, engine: Engine, progress: Callable[[Progress], None] | None
) -> tuple[list[TaskRecord], int]:
    """All split tasks, in split order; those with a marker are taken as done."""
    plan = assignment.plan
    splits = {plan.task_id(split): split for split in plan.splits}
    done = {
        task: marker
        for task in splits
        if (marker := read_marker(assignment.folder, task)) is not None
    }
    resumed = len(done)
    shared = engine.put_ref(assignment)
    waiting = [
        Call(task, run_split, shared, split, engine.locality([split.pin.path]))
        for task, split in splits.items()
        if task not in done
    ]
    _check_budget(plan, done.values())
    try:
        for outcome in _outcomes(engine, waiting):
            done[outcome.task_id] = _value(outcome, splits[outcome.task_id].pin.path)
            _check_budget(plan, done.values())
            if progress is not None:
                progress(
                    Progress(len(done), len(splits), sum(r.counts.rows_out for r in done.values()))
                )
    finally:
        _drain(engine, waiting)
    return [done[task] for task in splits], resumed


def _outcomes(engine: Engine, waiting: list[Call]) -> Iterable[Outcome]:
    """Keep the engine's slots filled with one call in reserve; gives every outcome once."""
    todo = iter(waiting)
    under_way = 0
    for call in todo:
        engine.submit(call)
        under_way += 1
        if under_way <= engine.slots:
            continue
        for outcome in engine.wait_any():
            under_way -= 1
            yield outcome
    while under_way:
        for outcome in engine.wait_any():
            under_way -= 1
            yield outcome


def _drain(engine: Engine, calls: list[Call]) -> None:
    """After a failure: begin nothing more and wait for what runs: no task outlives the run."""
    for call in calls:
        engine.cancel(call.task_id)
    while engine.wait_any():
        pass


def _value(outcome: Outcome, what: str) -> Any:
    error = outcome.error
    if error is None:
        return outcome.value
    if isinstance(error, (MlschedError, OSError)) or not isinstance(error, Exception):
        raise error
    raise PipelineError(
        f"The task of {what} failed: {type(error).__name__}: {error}.",
        "Nothing was published. Correct the function or the data, and run again.",
    ) from error


def _run_last(
    assignment: Assignment, engine: Engine, staged: list[TaskRecord]
) -> tuple[list[TaskRecord], bool]:
    """The records whose files are published: the sort's, or those of the splits."""
    if not assignment.plan.after_sort():
        return staged, False
    task = assignment.plan.task_id(None)
    engine.submit(Call(task, run_sort, engine.put_ref(assignment), tuple(staged)))
    (outcome,) = engine.wait_any()
    return [_value(outcome, "the sort")], True


def _total(staged: list[TaskRecord], last: list[TaskRecord]) -> Counts:
    """Counts over both stages: what the first gave to the second is neither input nor output."""
    total = sum((record.counts for record in staged), Counts())
    if last is staged:
        return total
    final = sum((record.counts for record in last), Counts())
    return Counts(
        total.rows_in,
        final.rows_out,
        total.filtered + final.filtered,
        total.rejected + final.rejected,
        total.made + final.made,
    )


def _check_laws(
    assignment: Assignment, counts: Counts, staged: list[TaskRecord], last: list[TaskRecord]
) -> None:
    target = assignment.plan.writes()
    counts.check("The run")
    _check_budget(assignment.plan, [*staged, *(last if last is not staged else [])])
    files = [file for record in last for file in record.files]
    for file in files:
        check_size(assignment.root, file)
    if sum(file.rows for file in files) != counts.rows_out:
        raise PipelineError(
            f"The shards hold {sum(file.rows for file in files)} rows, the tasks counted "
            f"{counts.rows_out}."
        )
    check_row_count(assignment.plan.source.contract, counts.rows_in, "The input")
    check_row_count(target.contract, counts.rows_out, "The output")
    unique = [name for name, check in target.contract.checks.items() if check.unique]
    for name in unique:
        _check_unique(assignment.root, files, name)


def _check_budget(plan: Plan, records: Iterable[TaskRecord]) -> None:
    """The rejects of all finished tasks are within the run's budget."""
    found = list(records)
    rejected = sum(record.counts.rejected for record in found)
    allowed = plan.writes().rejects_max
    if rejected > allowed:
        file = next(record.rejects for record in found if record.rejects is not None)
        first = read_shard(Path(plan.writes().dataset), file).slice(0, 1).to_pylist()[0]
        raise too_many_rejects(rejected, allowed, tuple(first.values()))


def _check_unique(root: Path, files: list[FileRecord], name: str) -> None:
    chunks = [chunk for file in files for chunk in read_shard(root, file).column(name).chunks]
    if not chunks:
        return
    values = pa.chunked_array(chunks).drop_null()
    distinct = pc.count_distinct(values, mode="all").as_py()
    if distinct != len(values):
        counts = pc.value_counts(values)
        twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))[0].as_py()
        raise PipelineError(
            f"Field {name!r} must be unique: {len(values)} rows have {distinct} values, for "
            f"instance {twice['values']!r} {twice['counts']} times. Nothing was published."
        )


def _remove_staged(assignment: Assignment, staged: list[TaskRecord]) -> None:
    """Drop what only the sort needed; the markers stay, so that nothing is done again."""
    for record in staged:
        for file in record.files:
            (assignment.root / file.path).unlink(missing_ok=True)
