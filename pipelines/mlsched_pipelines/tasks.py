"""One task: a split or a partition through the steps of its stage, and a marker when it is done.

Runs in a worker of any engine. A task that finds its marker does nothing. The marker is created
exclusively and names its files by their checksums, so of two workers on one task the first to
finish decides, and the other takes over its record.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial

import pyarrow as pa
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched_pipelines.aggregates import make_partial, merge_partials
from mlsched_pipelines.exchanges import (
    read_partition,
    read_range,
    read_side,
    spread,
    write_exchange,
)
from mlsched_pipelines.joins import join_rows
from mlsched_pipelines.kernels import apply_steps, as_blocks
from mlsched_pipelines.manifests import ExchangeFile, FileRecord, TaskRecord, decode_task, encode
from mlsched_pipelines.outputs import Output, stage_rejects
from mlsched_pipelines.rows import Block, RowLedger
from mlsched_pipelines.schema import conform
from mlsched_pipelines.sorts import sort_rows
from mlsched_pipelines.stages import Exchange, Stage
from mlsched_pipelines.steps import GroupBy, Join, Sort, Write
from mlsched_pipelines.stores import Store, open_store
from mlsched_pipelines.stores.files import full_disk_explained

Records = tuple[TaskRecord, ...]


class Work(Struct, frozen=True):
    """What the tasks of one stage share; handed to the engine once."""

    folder: str
    """Where the run stages its files, within the dataset's store."""
    plan_hash: str
    target: Write
    stage: Stage
    inputs: tuple[Records, ...] = ()
    """The finished tasks of each stage that the head reads, in order."""
    sides: tuple[tuple[Records, pa.Schema], ...] = ()
    """Those of the other side of each broadcast join, and the schema of their rows."""
    memory_max_bytes: int = sys.maxsize
    """What one task may take."""

    def task_id(self, number: int) -> str:
        """Name of a task of the stage."""
        return self.stage.task_id(self.plan_hash, number)

    def open_store(self) -> Store:
        """The dataset's store, with the credentials of the worker."""
        return open_store(self.target.dataset)


def marker_path(folder: str, task_id: str) -> str:
    """The marker that a finished task leaves."""
    return f"{folder}/{task_id}.done"


def read_marker(store: Store, folder: str, task_id: str) -> TaskRecord | None:
    """The record of a finished task, or None."""
    path = marker_path(folder, task_id)
    try:
        return decode_task(store.read(path), f"{store.url}/{path}")
    except FileNotFoundError:
        return None


def run_task(work: Work, number: int) -> TaskRecord:
    """Task ``number`` of a stage, from its split or partition to its marker.

    Raises:
        SchemaMismatchError: a row breaks its contract and may not be set aside.
        PipelineError: the input changed, it does not fit, or counts do not add up.
        StoreFullError: the disk is full.
    """
    store, task_id = work.open_store(), work.task_id(number)
    done = read_marker(store, work.folder, task_id)
    if done is not None:
        return done
    ledger, blocks = _begin(work, store, number)
    tables = [partial(read_side, store, *side) for side in work.sides]
    blocks = apply_steps(blocks, work.stage.steps, ledger, tables)
    with full_disk_explained(store.url):
        record = _stage(work, store, task_id, blocks, ledger)
        if store.put_new(marker_path(work.folder, task_id), encode(record)):
            return record
    winner = read_marker(store, work.folder, task_id)
    return record if winner is None else winner


def _begin(work: Work, store: Store, number: int) -> tuple[RowLedger, Iterator[Block]]:
    stage, rejects_max = work.stage, work.target.rejects_max
    if stage.source is None:
        ledger = RowLedger(f"the rows of {stage.name}", lambda: 0, rejects_max)
        return ledger, _gather(work, store, number, ledger)
    source, split = stage.source, stage.splits[number]
    ledger = RowLedger(split.pin.path, lambda: source.first_row(split), rejects_max)
    return ledger, (
        ledger.keep_promises(source.contract, block) for block in source.read(split, ledger)
    )


def _gather(work: Work, store: Store, number: int, ledger: RowLedger) -> Iterator[Block]:
    """What the head of a stage makes of a partition."""
    inputs = _read_inputs(work, store, number)
    ledger.rows_in += sum(table.num_rows for tables in inputs for table in tables)
    match work.stage.head:
        case Sort() as sort:
            whole = _whole(inputs[0], work.stage.input_schemas[0])
            yield from as_blocks(sort_rows(whole, sort.keys))
        case GroupBy() as group_by:
            yield from _merge(inputs[0], group_by, work.stage.input_schemas[0], ledger)
        case Join() as join:
            left, right = map(_whole, inputs, work.stage.input_schemas)
            yield from _join(left, right, join, ledger)
        case None:
            raise PipelineError("A stage begins with a source or a wide step.")


def _read_inputs(work: Work, store: Store, number: int) -> list[list[pa.Table]]:
    head = work.stage.head
    if isinstance(head, Sort) and head.partitions > 1:
        (records,) = work.inputs
        return [read_range(store, records, head.keys, head.partitions, number)]
    return [read_partition(store, records, number) for records in work.inputs]


def _merge(
    tables: list[pa.Table], step: GroupBy, schema: pa.Schema, ledger: RowLedger
) -> Iterator[Block]:
    partials = [table for table in tables if table.num_rows]
    made = merge_partials(step, partials or [make_partial(step, schema.empty_table())])
    before = sum(table.num_rows for table in partials)
    ledger.combined += max(0, before - made.num_rows)
    ledger.made += max(0, made.num_rows - before)
    yield from as_blocks(made)


def _join(left: pa.Table, right: pa.Table, step: Join, ledger: RowLedger) -> Iterator[Block]:
    ledger.combined += right.num_rows
    for made, given, taken in join_rows(left, right, step):
        ledger.change_rows_of(given, taken)
        yield from as_blocks(made)


def _whole(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _stage(
    work: Work, store: Store, task_id: str, blocks: Iterable[Block], ledger: RowLedger
) -> TaskRecord:
    """Write the blocks; the record of what was written, checked."""
    files: tuple[FileRecord, ...] = ()
    exchange: ExchangeFile | None = None
    if work.stage.exchange is None:
        files = _write_shards(work, store, task_id, blocks, ledger)
    else:
        exchange = _hand_on(work, store, task_id, blocks, ledger, work.stage.exchange)
    rejects = stage_rejects(store, work.folder, task_id, ledger)
    ledger.counts().check(f"The task of {ledger.file}")
    return TaskRecord(task_id, files, ledger.counts(), rejects, exchange)


def _write_shards(
    work: Work, store: Store, task_id: str, blocks: Iterable[Block], ledger: RowLedger
) -> tuple[FileRecord, ...]:
    contract = work.target.contract
    output = Output(store, work.folder, task_id, work.target)
    try:
        for block in blocks:
            kept = ledger.keep_promises(contract, block)
            ledger.rows_out += len(kept.rows)
            output.write(conform(contract, kept.batch, ledger.file))
        return output.close()
    finally:
        output.abandon()


def _hand_on(
    work: Work,
    store: Store,
    task_id: str,
    blocks: Iterable[Block],
    ledger: RowLedger,
    exchange: Exchange,
) -> ExchangeFile:
    handed = spread(blocks, work.stage, exchange, ledger, work.memory_max_bytes)
    return write_exchange(store, f"{work.folder}/{task_id}.rows", handed)
