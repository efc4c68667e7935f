"""Exchange files: the rows that one task hands on, apart by partition, as batches of one file.

They lie beside the shards of the run, so that a lost worker loses nothing of what it had handed on,
and a run that goes on after a crash finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from mlsched.errors import PipelineError
from mlsched_pipelines.aggregates import make_partial
from mlsched_pipelines.kernels import BLOCK_ROWS
from mlsched_pipelines.manifests import ExchangeFile, Part, TaskRecord
from mlsched_pipelines.partitions import assign_partitions
from mlsched_pipelines.rows import Block, RowLedger
from mlsched_pipelines.stages import Exchange
from mlsched_pipelines.stores import Store, open_store

SIDES_MAX = 4
"""Other sides of broadcast joins that a worker keeps open."""


def write_exchange(
    store: Store, path: str, schema: pa.Schema, parts: Iterable[Iterable[pa.RecordBatch]]
) -> ExchangeFile:
    """Write the batches of each partition, one partition after the other."""
    folder = path.rpartition("/")[0]
    temporary = store.scratch(folder)
    found: list[Part] = []
    at = 0
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batches in parts:
                start, rows, size = at, 0, 0
                for batch in batches:
                    writer.write_batch(batch)
                    at, rows, size = at + 1, rows + batch.num_rows, size + batch.nbytes
                found.append(Part(start, at, rows, size))
        size_bytes = temporary.stat().st_size
        store.put_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return ExchangeFile(path, size_bytes, tuple(found))


def spread(
    blocks: Iterable[Block], schema: pa.Schema, exchange: Exchange, ledger: RowLedger
) -> tuple[pa.Schema, Iterable[Iterable[pa.RecordBatch]]]:
    """The rows of a task by partition, combined before where the exchange says so.

    Memory: with several partitions or a group-by all rows of the task, and a copy; else one block.
    """
    if exchange.partitions == 1 and exchange.partial is None:
        return schema, [_counted(blocks, ledger)]
    table = pa.Table.from_batches([block.batch for block in blocks], schema)
    if exchange.partial is not None:
        before = table.num_rows
        table = make_partial(exchange.partial, table)
        ledger.combined += max(0, before - table.num_rows)
        ledger.made += max(0, table.num_rows - before)
    ledger.rows_out += table.num_rows
    return table.schema, _cut(table, exchange)


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


def _read_part(store: Store, file: ExchangeFile, number: int) -> pa.Table:
    try:
        if store.size(file.path) != file.size_bytes:
            raise _damaged(store, file, "it has another size")
        reader = pa.ipc.open_file(store.open(file.path))
        part = file.parts[number]
        batches = [reader.get_batch(at) for at in range(part.start, part.stop)]
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(store, file, str(error)) from error
    return pa.Table.from_batches(batches, reader.schema)


def _damaged(store: Store, file: ExchangeFile, why: str) -> PipelineError:
    return PipelineError(
        f"The intermediate file {store.url}/{file.path} is missing or damaged: {why}.",
        "Run again: what is missing is made again.",
    )


def read_side(store: Store, records: Sequence[TaskRecord], schema: pa.Schema) -> pa.Table:
    """All rows of the other side of a broadcast join; kept open for the next task of the worker."""
    files = tuple(record.exchange for record in records if record.exchange is not None)
    return _read_side(store.url, files) if files else schema.empty_table()


@lru_cache(SIDES_MAX)
def _read_side(address: str, files: tuple[ExchangeFile, ...]) -> pa.Table:
    store = open_store(address)
    return pa.concat_tables([_read_part(store, file, 0) for file in files]).combine_chunks()


def part_bytes(records: Sequence[TaskRecord], number: int) -> int:
    """Bytes in memory of what the tasks handed on to a partition."""
    files = (record.exchange for record in records)
    return sum(file.parts[number].size_bytes for file in files if file is not None)
