"""What the narrow steps do to blocks of rows, with every row accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mlsched.errors import SchemaMismatchError
from mlsched_pipelines.expressions import evaluate
from mlsched_pipelines.frames import import_pandas, is_frame
from mlsched_pipelines.joins import join_rows
from mlsched_pipelines.rows import NO_ROW, Block, RowLedger
from mlsched_pipelines.schema import conform
from mlsched_pipelines.steps import Filter, Join, MapBatches, Narrow, Project

BLOCK_ROWS = 128 << 10
"""Rows of the blocks that go from step to step, where a step chooses."""


def apply_steps(
    blocks: Iterable[Block],
    steps: Iterable[Narrow],
    ledger: RowLedger,
    tables: Sequence[Callable[[], pa.Table]] = (),
) -> Iterator[Block]:
    """Blocks through all steps in order; empty blocks are dropped.

    Args:
        blocks: What to begin with.
        steps: What to do.
        ledger: Counts what becomes of the rows.
        tables: For each join among the steps the rows of its other side.
    """
    sides = iter(tables)
    for step in steps:
        if isinstance(step, Join):
            blocks = _join(blocks, step, next(sides), ledger)
        else:
            blocks = _each(blocks, step, ledger)
    return (block for block in blocks if len(block.rows))


def _each(
    blocks: Iterable[Block], step: Project | Filter | MapBatches, ledger: RowLedger
) -> Iterator[Block]:
    for block in blocks:
        if not len(block.rows):
            continue
        match step:
            case Project():
                yield Block(evaluate(block.batch, step.columns), block.rows)
            case Filter():
                yield _filter(block, step, ledger)
            case MapBatches():
                yield _map(block, step, ledger)


def _join(
    blocks: Iterable[Block], step: Join, table: Callable[[], pa.Table], ledger: RowLedger
) -> Iterator[Block]:
    """A broadcast join. Its other side is hashed once for as many rows as it has itself."""
    right: pa.Table | None = None
    waiting: list[Block] = []
    held = 0
    for block in blocks:
        right = table() if right is None else right
        waiting.append(block)
        held += len(block.rows)
        if held >= max(BLOCK_ROWS, right.num_rows):
            yield from _join_some(waiting, right, step, ledger)
            waiting, held = [], 0
    if right is not None and held:
        yield from _join_some(waiting, right, step, ledger)


def _join_some(
    blocks: Sequence[Block], right: pa.Table, step: Join, ledger: RowLedger
) -> Iterator[Block]:
    left = pa.Table.from_batches([block.batch for block in blocks])
    rows = np.concatenate([block.rows for block in blocks])
    at = 0
    for made, given, taken in join_rows(left, right, step):
        ledger.change_rows_of(given, taken)
        yield from as_blocks(made, rows[at:][taken])
        at += given


def as_blocks(table: pa.Table, rows: np.ndarray[Any, Any] | None = None) -> Iterator[Block]:
    """A table as blocks; of rows that come from no single row of a file where none are given."""
    at = 0
    for batch in table.combine_chunks().to_batches(max_chunksize=BLOCK_ROWS):
        stop = at + batch.num_rows
        part = np.full(batch.num_rows, NO_ROW, np.int64) if rows is None else rows[at:stop]
        yield Block(batch, part)
        at = stop


def _filter(block: Block, step: Filter, ledger: RowLedger) -> Block:
    flags = evaluate(block.batch, (("kept", step.condition),)).column(0).fill_null(False)
    batch = block.batch.filter(flags)
    ledger.filtered += len(block.rows) - batch.num_rows
    return Block(batch, pa.array(block.rows).filter(flags).to_numpy())


def _map(block: Block, step: MapBatches, ledger: RowLedger) -> Block:
    given = block.batch
    if step.format == "pandas":
        import_pandas()
        given = block.batch.to_pandas()
    made = conform(
        step.contract, _as_batch(step.function(given), step), f"{ledger.file} (map_batches)"
    )
    if made.num_rows != len(block.rows) and not step.changes_rows:
        raise SchemaMismatchError(
            f"{ledger.file}: map_batches got {len(block.rows)} rows and gave {made.num_rows}.",
            "Say changes_rows=True if that is what it does.",
        )
    ledger.change_rows(len(block.rows), made.num_rows)
    rows = block.rows if not step.changes_rows else np.full(made.num_rows, NO_ROW, np.int64)
    return ledger.keep_promises(step.contract, Block(made, rows))


def _as_batch(made: Any, step: MapBatches) -> pa.RecordBatch:
    if isinstance(made, pa.RecordBatch):
        return made
    try:
        if isinstance(made, Mapping):
            columns = {name: _as_array(name, values, step) for name, values in made.items()}
            return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        if isinstance(made, pa.Table):
            batches = made.combine_chunks().to_batches()
            return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=made.schema)
        if is_frame(made):
            return pa.RecordBatch.from_pandas(made, step.contract.schema, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise SchemaMismatchError(
            f"map_batches returned columns that do not fit: {error}.",
            "Expected for each field of schema= as many values of its type as there are rows: "
            f"{', '.join(f'{field.name}: {field.type}' for field in step.contract.schema)}.",
        ) from error
    raise SchemaMismatchError(
        "map_batches: expected a RecordBatch, a Table, a DataFrame or a mapping, found "
        f"{type(made).__name__}.",
        "Return one of them; several batches as one: pa.Table.from_batches(batches).",
    )


def _as_array(name: str, values: Any, step: MapBatches) -> pa.Array:
    at = step.contract.schema.get_field_index(name)
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    wanted = step.contract.schema.field(at).type if at >= 0 else None
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        made = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        return made.cast(wanted) if wanted is not None and made.type != wanted else made
    return pa.array(values, wanted)
