"""Running a plan: tasks through an engine, the laws checked, one commit.

A run is named by (pipeline, interval, plan hash). A run that is published already is not done
again; one that was interrupted goes on from the markers of its finished tasks.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mlsched.errors import MlschedError, PipelineError
from mlsched_pipelines.engines import Engine
from mlsched_pipelines.engines.local import LocalEngine
from mlsched_pipelines.executions import Execution, Listener, total_counts
from mlsched_pipelines.manifests import FileRecord, RunKey, RunRecord, encode_schema
from mlsched_pipelines.memory import find_budget
from mlsched_pipelines.plans import Plan
from mlsched_pipelines.rows import Counts
from mlsched_pipelines.schema import check_row_count
from mlsched_pipelines.stores import Store, open_store
from mlsched_pipelines.stores.commits import DATA, commit, last_manifest
from mlsched_pipelines.stores.files import full_disk_explained
from mlsched_pipelines.stores.shards import check_size, read_shard


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
    memory_max_bytes: int | None = None,
    progress: Listener | None = None,
) -> RunReport:
    """Compute a plan and publish its output as the dataset's next version.

    Args:
        plan: A plan that ends with ``write``.
        pipeline: Name of the pipeline; the last part of the dataset's address by default.
        interval: The piece of time or data that this run covers (``2026-11-26``). A new run of an
            interval replaces its rows; other intervals stay.
        engine: Where tasks run; threads of this process by default.
        memory_max_bytes: What the tasks that run side by side may take, by estimate; by default
            what the engine's workers have, or 60 % of this machine's memory.
        progress: Called after every task, and at least every 5 s, in the caller's thread.

    Raises:
        SchemaMismatchError: data breaks a contract beyond the budget for rejects.
        PipelineError: a function raised, the input changed, a task does not fit into memory, or
            counts do not add up.
        StoreFullError: the disk is full; finished tasks are kept.
        UnreachableError: the store or the engine does not answer; finished tasks are kept.
    """
    started = time.monotonic()
    store = open_store(plan.writes().dataset)
    key = RunKey(pipeline or PurePosixPath(store.url).name, interval, plan.plan_hash)
    with ExitStack() as stack:
        found = _find_published(store, key)
        if found is None:
            store.check()
            used = engine if engine is not None else stack.enter_context(LocalEngine())
            budget = find_budget(used, memory_max_bytes)
            folder = f"{DATA}/{key.run_id}"
            execution = Execution(plan, store, folder, used, budget, progress)
            try:
                found = _compute(plan, store, key, execution)
            except (MlschedError, OSError):
                # Another process may have published this very run and cleaned up under our feet.
                found = _find_published(store, key)
                if found is None:
                    raise
    record, version, files, resumed, published = found
    wall_s = time.monotonic() - started
    return RunReport(store.url, version, key, record.counts, files, resumed, published, wall_s)


Published = tuple[RunRecord, int, int, int, bool]
"""Run, version, number of files, tasks resumed, and whether this process published it."""


def _find_published(store: Store, key: RunKey) -> Published | None:
    last = last_manifest(store)
    found = last.find_run(key) if last is not None else None
    if last is None or found is None:
        return None
    return found, last.version, sum(key.run_id in file.path for file in last.files), 0, False


def _compute(plan: Plan, store: Store, key: RunKey, execution: Execution) -> Published:
    execution.run()
    files = tuple(file for record in execution.records[-1] for file in record.files)
    counts = total_counts(execution)
    _check_laws(plan, store, counts, files)
    rejects = tuple(one.rejects for one in execution.done if one.rejects is not None)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = RunRecord(key, key.run_id, counts, rejects, now)
    with full_disk_explained(store.url):
        made, won = commit(store, record, files, encode_schema(plan.writes().contract.schema))
    # The markers stay, so that nothing is done again.
    store.delete(one.exchange.path for one in execution.done if one.exchange is not None)
    return record, made.version, len(files), execution.resumed, won


def _check_laws(plan: Plan, store: Store, counts: Counts, files: tuple[FileRecord, ...]) -> None:
    target = plan.writes()
    counts.check("The run")
    for file in files:
        check_size(store, file)
    if sum(file.rows for file in files) != counts.rows_out:
        raise PipelineError(
            f"The shards hold {sum(file.rows for file in files)} rows, the tasks counted "
            f"{counts.rows_out}."
        )
    check_row_count(target.contract, counts.rows_out, "The output")
    unique = [name for name, check in target.contract.checks.items() if check.unique]
    for name in unique:
        _check_unique(store, files, name)


def _check_unique(store: Store, files: tuple[FileRecord, ...], name: str) -> None:
    chunks = [chunk for file in files for chunk in read_shard(store, file).column(name).chunks]
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
