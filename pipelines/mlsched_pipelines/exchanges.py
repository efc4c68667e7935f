"""Exchange files: the rows that one task hands on, apart by partition, as batches of one file.

They lie beside the shards of the run, so that a lost worker loses nothing of what it had handed on,
and a run that goes on after a crash finds them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched_pipelines.aggregates import make_partial
from mlsched_pipelines.kernels import BLOCK_ROWS
from mlsched_pipelines.manifests import ExchangeFile, Part, TaskRecord
from mlsched_pipelines.memory import check_task_fits
from mlsched_pipelines.partitions import assign_partitions
from mlsched_pipelines.rows import Block, RowLedger
from mlsched_pipelines.sorts import Cut, Keys, cut_run, find_ranges, find_row, sort_rows
from mlsched_pipelines.stages import Exchange, Stage
from mlsched_pipelines.stores import Store, open_store

HELD_FACTOR = 2
"""Rows that are handed on are there twice while they are put apart."""

SIDES_MAX = 4
"""Other sides of broadcast joins that a worker keeps open."""


class Handed(Struct, frozen=True):
    """What a task hands on: the batches of each part, and the index of rows that are sorted."""

    schema: pa.Schema
    parts: Iterable[Iterable[pa.RecordBatch]]
    index: bytes = b""


def write_exchange(store: Store, path: str, handed: Handed) -> ExchangeFile:
    """Write the batches of each part, one part after the other."""
    folder = path.rpartition("/")[0]
    temporary = store.scratch(folder)
    found: list[Part] = []
    at = 0
    try:
        with (
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, handed.schema) as writer,
        ):
            for batches in handed.parts:
                start, rows, size = at, 0, 0
                for batch in batches:
                    writer.write_batch(batch)
                    at, rows, size = at + 1, rows + batch.num_rows, size + batch.nbytes
                found.append(Part(start, at, rows, size))
        size_bytes = temporary.stat().st_size
        store.put_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return ExchangeFile(path, size_bytes, tuple(found), handed.index)


def spread(
    blocks: Iterable[Block],
    stage: Stage,
    exchange: Exchange,
    ledger: RowLedger,
    memory_max_bytes: int,
) -> Handed:
    """The rows of a task by partition; combined before, or sorted, where the exchange says so.

    Memory: with several partitions, a group-by or a dictionary all rows of the task, and a copy;
    else one block.

    Raises:
        PipelineError: the rows, and a copy, are more than the task may take.
    """
    schema = stage.schema
    has_dictionary = any(_has_dictionary(field.type) for field in schema)
    if exchange.partitions == 1 and exchange.partial is None and not has_dictionary:
        return Handed(schema, [_counted(blocks, ledger)])
    held: list[pa.RecordBatch] = []
    held_bytes = 0
    for block in blocks:
        held.append(block.batch)
        held_bytes += block.batch.nbytes
        check_task_fits(stage, ledger.file, HELD_FACTOR * held_bytes, memory_max_bytes)
    table = pa.Table.from_batches(held, schema)
    if has_dictionary:
        # A file has one dictionary for all batches of a column.
        table = table.combine_chunks()
    if exchange.partial is not None:
        before = table.num_rows
        table = make_partial(exchange.partial, table)
        ledger.combined += max(0, before - table.num_rows)
        ledger.made += max(0, table.num_rows - before)
    ledger.rows_out += table.num_rows
    if exchange.order:
        batches, index = cut_run(sort_rows(table, exchange.order), exchange.order)
        return Handed(table.schema, batches, index)
    return Handed(table.schema, _cut(table, exchange))


def _has_dictionary(kind: pa.DataType) -> bool:
    children = (kind.field(at).type for at in range(kind.num_fields))
    return pa.types.is_dictionary(kind) or any(map(_has_dictionary, children))


def _counted(blocks: Iterable[Block], ledger: RowLedger) -> Iterator[pa.RecordBatch]:
    for block in blocks:
        ledger.rows_out += len(block.rows)
        yield block.batch


def _cut(table: pa.Table, exchange: Exchange) -> Iterator[list[pa.RecordBatch]]:
    if exchange.partitions == 1:
        yield table.combine_chunks().to_batches(max_chunksize=BLOCK_ROWS)
        return
    at = assign_partitions(table, exchange.keys, exchange.partitions)
    ordered = table.take(np.argsort(at, kind="stable")).combine_chunks()
    stops = np.cumsum(np.bincount(at, minlength=exchange.partitions)).tolist()
    for start, stop in zip([0, *stops], stops, strict=False):
        yield ordered.slice(start, stop - start).to_batches(max_chunksize=BLOCK_ROWS)


def read_partition(store: Store, records: Sequence[TaskRecord], number: int) -> list[pa.Table]:
    """The rows that each task handed on to a partition, in the order of the tasks.

    Raises:
        PipelineError: an exchange file is missing or damaged.
    """
    return [_read_part(store, record.exchange, number) for record in records if record.exchange]


def read_range(
    store: Store, records: Sequence[TaskRecord], order: Keys, partitions: int, number: int
) -> list[pa.Table]:
    """The rows of each sorted run that lie in a range of the order; see `find_ranges`.

    Raises:
        PipelineError: an exchange file is missing or damaged.
    """
    runs = runs_of(records)
    cuts = find_ranges(runs, order, partitions).cuts
    if not cuts:
        return []
    ends = [cuts[number - 1] if number else None, cuts[number] if number < len(cuts) else None]
    return [_read_between(store, at, run, ends, order) for at, run in enumerate(runs) if run.parts]


def _read_between(
    store: Store, at: int, run: ExchangeFile, ends: Sequence[Cut | None], order: Keys
) -> pa.Table:
    names = [name for name, _ in order]
    with _reading(store, run) as reader:

        def read_keys(batch: int) -> pa.Table:
            return pa.Table.from_batches([reader.get_batch(batch).select(names)])

        stops = list(accumulate(part.rows for part in run.parts))
        start, stop = (
            fallback if cut is None else find_row(at, run, cut, order, read_keys)
            for cut, fallback in zip(ends, (0, stops[-1]), strict=True)
        )
        first, last = bisect_right(stops, start), bisect_left(stops, stop) + 1
        batches = [reader.get_batch(number) for number in range(first, last) if start < stop]
        found = pa.Table.from_batches(batches, reader.schema)
    return found.slice(start - (stops[first - 1] if first else 0), stop - start)


def _read_part(store: Store, file: ExchangeFile, number: int) -> pa.Table:
    with _reading(store, file) as reader:
        part = file.parts[number]
        batches = [reader.get_batch(at) for at in range(part.start, part.stop)]
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def _reading(store: Store, file: ExchangeFile) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """The batches of an exchange file.

    Raises:
        PipelineError: it is missing or damaged.
    """
    try:
        if store.size(file.path) != file.size_bytes:
            raise _damaged(store, file, "it has another size")
        yield pa.ipc.open_file(store.open(file.path))
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(store, file, str(error)) from error


def _damaged(store: Store, file: ExchangeFile, why: str) -> PipelineError:
    return PipelineError(
        f"The intermediate file {store.url}/{file.path} is missing or damaged: {why}.",
        "Run again: what is missing is made again.",
    )


def read_side(store: Store, records: Sequence[TaskRecord], schema: pa.Schema) -> pa.Table:
    """All rows of the other side of a broadcast join; kept open for the next task of the worker."""
    files = tuple(runs_of(records))
    return _read_side(store.url, files) if files else schema.empty_table()


@lru_cache(SIDES_MAX)
def _read_side(address: str, files: tuple[ExchangeFile, ...]) -> pa.Table:
    store = open_store(address)
    return pa.concat_tables([_read_part(store, file, 0) for file in files]).combine_chunks()


def runs_of(records: Sequence[TaskRecord]) -> list[ExchangeFile]:
    """What the tasks handed on, in order."""
    return [record.exchange for record in records if record.exchange is not None]


def handed_bytes(records: Sequence[TaskRecord], exchange: Exchange) -> list[int]:
    """Bytes in memory of what the tasks handed on to each partition; of ranges about so many."""
    runs = runs_of(records)
    if exchange.order:
        return list(find_ranges(runs, exchange.order, exchange.partitions).sizes_bytes)
    return [
        sum(run.parts[number].size_bytes for run in runs) for number in range(exchange.partitions)
    ]
