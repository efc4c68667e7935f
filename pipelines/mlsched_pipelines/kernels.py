"""What one step does to a block of rows, with every row accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.expressions import evaluate
from mlsched_pipelines.plans import Filter, MapBatches, Project, Step
from mlsched_pipelines.rows import NO_ROW, Block, RowLedger
from mlsched_pipelines.schema import conform


def apply_steps(
    blocks: Iterable[Block], steps: Iterable[Step], ledger: RowLedger
) -> Iterator[Block]:
    """Blocks through all steps in order; empty blocks are dropped."""
    todo = tuple(steps)
    for block in blocks:
        now = block
        for step in todo:
            if len(now.rows):
                now = _apply(now, step, ledger)
        if len(now.rows):
            yield now


def _apply(block: Block, step: Step, ledger: RowLedger) -> Block:
    match step:
        case Project():
            return Block(evaluate(block.batch, step.columns), block.rows)
        case Filter():
            return _filter(block, step, ledger)
        case MapBatches():
            return _map(block, step, ledger)
        case _:
            raise PipelineError("A sort is not a step of one block.")


def _filter(block: Block, step: Filter, ledger: RowLedger) -> Block:
    flags = evaluate(block.batch, (("kept", step.condition),)).column(0).fill_null(False)
    kept = np.asarray(flags.to_numpy(zero_copy_only=False), dtype=np.bool_)
    ledger.filtered += int(len(kept) - kept.sum())
    return Block(block.batch.filter(flags), block.rows[kept])


def _map(block: Block, step: MapBatches, ledger: RowLedger) -> Block:
    made = conform(
        step.contract, _as_batch(step.function(block.batch), step), f"{ledger.file} (map_batches)"
    )
    difference = made.num_rows - len(block.rows)
    if difference and not step.changes_rows:
        raise SchemaMismatchError(
            f"{ledger.file}: map_batches got {len(block.rows)} rows and gave {made.num_rows}.",
            "Say changes_rows=True if that is what it does.",
        )
    ledger.made += max(0, difference)
    ledger.filtered += max(0, -difference)
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
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaMismatchError(
            f"map_batches returned columns that do not fit: {error}."
        ) from error
    raise SchemaMismatchError(
        f"map_batches: expected a RecordBatch, a Table or a mapping, found {type(made).__name__}."
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
