"""Arrow expressions over one record batch, row order kept."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.acero as ac
import pyarrow.compute as pc

from mlsched.errors import SchemaMismatchError


def evaluate(
    batch: pa.RecordBatch, columns: tuple[tuple[str, pc.Expression], ...]
) -> pa.RecordBatch:
    """New columns from expressions over a batch; one thread, so rows stay in order.

    Raises:
        SchemaMismatchError: an expression names a field that is not there, or types do not fit.
    """
    names = [name for name, _ in columns]
    source = ac.Declaration(
        "table_source", ac.TableSourceNodeOptions(pa.Table.from_batches([batch]))
    )
    project = ac.Declaration("project", ac.ProjectNodeOptions([each for _, each in columns], names))
    try:
        made = ac.Declaration.from_sequence([source, project]).to_table(use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
        reason = str(error).splitlines()[0]
        raise SchemaMismatchError(
            f"The expressions {[str(each) for _, each in columns]} do not fit the fields "
            f"{[f'{field.name}: {field.type}' for field in batch.schema]}: {reason}"
        ) from error
    batches = made.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=made.schema)


def expression_bytes(expression: pc.Expression) -> bytes:
    """Arrow's serial form, which tells literals of different types apart (their text does not)."""
    return pickle.dumps(expression, protocol=5)
