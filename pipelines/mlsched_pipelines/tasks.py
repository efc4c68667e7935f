"""One task: a split through the plan's steps into staged shards, and a marker when it is done.

Runs in a worker of any engine. A task that finds its marker does nothing. The marker is created
exclusively and names its files by their checksums, so of two workers on one task the first to
finish decides, and the other takes over its record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched.units import format_bytes
from mlsched_pipelines.kernels import apply_steps
from mlsched_pipelines.manifests import FileRecord, TaskRecord, decode_task, encode
from mlsched_pipelines.plans import Plan, Sort, Write
from mlsched_pipelines.rows import NO_ROW, REJECTS_SCHEMA, Block, RowLedger
from mlsched_pipelines.schema import conform
from mlsched_pipelines.splits import Split
from mlsched_pipelines.stores.files import full_disk_explained, publish_new
from mlsched_pipelines.stores.shards import ShardWriter, read_shard

SORT_MEMORY_FACTOR = 3
"""Rows, sorted copy, and the index with Arrow's working memory."""


class Assignment(Struct, frozen=True):
    """What every task of a run shares; handed to the engine once."""

    plan: Plan
    run_id: str

    @property
    def root(self) -> Path:
        """The dataset's directory."""
        return Path(self.plan.writes().dataset)

    @property
    def folder(self) -> Path:
        """Where the run stages its files."""
        return self.root / "data" / self.run_id


def marker_path(folder: Path, task_id: str) -> Path:
    """The marker that a finished task leaves."""
    return folder / f"{task_id}.done"


def read_marker(folder: Path, task_id: str) -> TaskRecord | None:
    """The record of a finished task, or None."""
    path = marker_path(folder, task_id)
    try:
        return decode_task(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None


def run_split(assignment: Assignment, split: Split) -> TaskRecord:
    """The task of one split: everything before the sort, or everything when nothing is sorted.

    Raises:
        SchemaMismatchError: a row breaks its contract and may not be set aside.
        PipelineError: the input changed, or counts do not add up.
        StoreFullError: the disk is full.
    """
    plan, task_id = assignment.plan, assignment.plan.task_id(split)
    done = read_marker(assignment.folder, task_id)
    if done is not None:
        return done
    ledger = RowLedger(
        split.pin.path, lambda: plan.source.first_row(split), plan.writes().rejects_max
    )
    promised = (
        ledger.keep_promises(plan.source.contract, b) for b in plan.source.read(split, ledger)
    )
    blocks = apply_steps(promised, plan.before_sort(), ledger)
    return _stage(assignment, task_id, blocks, ledger, last=not plan.after_sort())


def run_sort(assignment: Assignment, staged: tuple[TaskRecord, ...]) -> TaskRecord:
    """The final task of a plan that sorts: all staged rows, in split order, stably sorted.

    Raises:
        PipelineError: the rows do not fit the sort's memory bound.
    """
    plan, task_id = assignment.plan, assignment.plan.task_id(None)
    done = read_marker(assignment.folder, task_id)
    if done is not None:
        return done
    sort, *steps = plan.after_sort()
    assert isinstance(sort, Sort), "the steps after a sort begin with it"
    files = [file for record in staged for file in record.files]
    check_sort_memory(sort, sum(file.size_bytes for file in files))
    ledger = RowLedger("the sorted rows", lambda: 0, plan.writes().rejects_max)
    table = (
        pa.concat_tables([read_shard(assignment.root, file) for file in files]) if files else None
    )
    blocks = apply_steps(_sorted_blocks(table, sort, ledger), steps, ledger)
    return _stage(assignment, task_id, blocks, ledger, last=True)


def check_sort_memory(sort: Sort, size_bytes: int) -> None:
    """The sort fits its bound.

    Raises:
        PipelineError: it does not; the message has the numbers.
    """
    needed = size_bytes * SORT_MEMORY_FACTOR
    if needed > sort.memory_max_bytes:
        raise PipelineError(
            f"sort: {format_bytes(size_bytes)} of rows need about {format_bytes(needed)} of "
            f"memory, allowed are {format_bytes(sort.memory_max_bytes)}.",
            "Raise sort(memory_max_bytes=...), or project and filter before the sort.",
        )


def _sorted_blocks(table: pa.Table | None, sort: Sort, ledger: RowLedger) -> Iterator[Block]:
    if table is None:
        return
    ledger.rows_in += table.num_rows
    order = pc.sort_indices(table, sort_keys=list(sort.keys))
    for batch in table.take(order).combine_chunks().to_batches(max_chunksize=64 << 10):
        yield Block(batch, np.full(batch.num_rows, NO_ROW, np.int64))


def _stage(
    assignment: Assignment, task_id: str, blocks: Iterable[Block], ledger: RowLedger, *, last: bool
) -> TaskRecord:
    """Write the blocks, then the marker; the marker that is there first counts."""
    target, folder = assignment.plan.writes(), assignment.folder
    with full_disk_explained(folder):
        output = _Output(assignment.root, folder, task_id, target if last else None)
        try:
            for block in blocks:
                kept = ledger.keep_promises(target.contract, block) if last else block
                ledger.rows_out += len(kept.rows)
                output.write(
                    conform(target.contract, kept.batch, ledger.file) if last else kept.batch
                )
            files = output.close()
            rejects = _stage_rejects(assignment, task_id, ledger)
        finally:
            output.abandon()
        ledger.counts().check(f"The task of {ledger.file}")
        record = TaskRecord(task_id, files, ledger.counts(), rejects)
        if publish_new(marker_path(folder, task_id), encode(record)):
            return record
    winner = read_marker(folder, task_id)
    return record if winner is None else winner


def _stage_rejects(assignment: Assignment, task_id: str, ledger: RowLedger) -> FileRecord | None:
    if not ledger.rejects:
        return None
    folder = assignment.folder
    writer = ShardWriter(
        assignment.root, folder, f"{task_id}-rejects", REJECTS_SCHEMA, batch_bytes=1 << 20
    )
    try:
        for batch in ledger.rejects_table().to_batches():
            writer.write(batch)
        return writer.close()
    finally:
        writer.abandon()


class _Output:
    """The open shards of a task: one for each value of the partition column, in order of rows."""

    def __init__(self, root: Path, folder: Path, task_id: str, target: Write | None) -> None:
        self._root, self._folder, self._task_id = root, folder, task_id
        self._column = target.partition_by if target else ""
        self._batch_bytes = target.batch_bytes if target else 4 << 20
        self._shard_bytes_max = target.shard_bytes_max if target else 256 << 20
        self._open: dict[str, ShardWriter] = {}
        self._closed: list[tuple[int, FileRecord]] = []
        self._numbers: dict[str, int] = {}
        self._made = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if not self._column:
            self._append("", batch)
            return
        values = pc.cast(batch.column(self._column), pa.string())
        for value in pc.unique(values).to_pylist():
            if value is None:
                raise PipelineError(
                    f"The partition column {self._column!r} must have no null, found one."
                )
            self._append(value, batch.filter(pc.equal(values, value)))

    def _append(self, value: str, batch: pa.RecordBatch) -> None:
        writer = self._open.get(value)
        if writer is None:
            partition = {self._column: value} if self._column else {}
            stem = f"{self._task_id}-{self._made:04d}"
            writer = ShardWriter(
                self._root,
                self._folder,
                stem,
                batch.schema,
                batch_bytes=self._batch_bytes,
                partition=partition,
            )
            self._open[value] = writer
            self._numbers[value] = self._made
            self._made += 1
        writer.write(batch)
        if writer.size_bytes > self._shard_bytes_max:
            self._close_one(value)

    def _close_one(self, value: str) -> None:
        record = self._open[value].close()
        self._closed.append((self._numbers[value], record))
        del self._open[value]

    def close(self) -> tuple[FileRecord, ...]:
        for value in list(self._open):
            self._close_one(value)
        return tuple(record for _, record in sorted(self._closed, key=lambda pair: pair[0]))

    def abandon(self) -> None:
        for writer in self._open.values():
            writer.abandon()
