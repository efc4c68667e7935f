"""A sort over many tasks: each sorts its own rows to a run, then ranges of all runs are merged.

A run is an exchange file whose parts are batches, with the key of the first row of each: its index.
The indexes of all runs together say where to cut, so that the ranges hold about as much each,
within a batch of every run. A cut is a place in the whole order, rows that are equal by key among
it: those of an earlier task, or earlier in their task, come first. So one key that most rows have
is cut too, and equal rows keep the order of the input.

Every comparison is made by Arrow's own stable sort: nulls, NaN and text have one order everywhere.
Source: Shi, Schaeffer: Parallel sorting by regular sampling, 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from msgspec import Struct

from mlsched.errors import SchemaMismatchError
from mlsched_pipelines.manifests import ExchangeFile
from mlsched_pipelines.steps import Order

Keys = Sequence[tuple[str, Order]]

RUN_BATCH_ROWS, RUN_BATCH_BYTES = 4096, 1 << 20
"""The most in a batch of a run: how exact its index is."""


class Cut(Struct, frozen=True):
    """A place in the order of all rows: before row ``row`` of run ``run``, whose key this is."""

    key: pa.Table
    run: int
    row: int


class Ranges(Struct, frozen=True):
    """Where the order of all rows is cut, and about how many bytes lie in each range."""

    cuts: tuple[Cut, ...]
    sizes_bytes: tuple[int, ...]


def check_sortable(schema: pa.Schema, names: Iterable[str]) -> None:
    """The columns have an order.

    Raises:
        SchemaMismatchError: one has none.
    """
    for name in names:
        kind = schema.field(name).type
        try:
            sort_rows(pa.schema([(name, kind)]).empty_table(), [(name, "ascending")])
        except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise SchemaMismatchError(
                f"sort: {name!r} of type {kind} has no order.",
                "Sort by another column, or make one: project, map_batches.",
            ) from error


def sort_rows(table: pa.Table, keys: Keys) -> pa.Table:
    """The rows in order; equal rows stay as they were."""
    return table.take(pc.sort_indices(table, sort_keys=list(keys)))


def cut_run(table: pa.Table, keys: Keys) -> tuple[Iterator[list[pa.RecordBatch]], bytes]:
    """Sorted rows as parts of one batch each, and their index."""
    rows, size = table.num_rows, max(1, table.nbytes)
    step = max(1, min(RUN_BATCH_ROWS, RUN_BATCH_BYTES * rows // size))
    starts = range(0, rows, step)
    firsts = table.select([name for name, _ in keys]).take(pa.array(starts, pa.int64()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, firsts.schema) as writer:
        writer.write_table(firsts)
    parts = (table.slice(at, step).combine_chunks().to_batches() for at in starts)
    return parts, sink.getvalue().to_pybytes()


def read_index(run: ExchangeFile) -> pa.Table:
    """The key of the first row of each batch of a run."""
    return pa.ipc.open_stream(run.index).read_all()


def find_ranges(runs: Sequence[ExchangeFile], keys: Keys, partitions: int) -> Ranges:
    """Cut all runs together into so many ranges of about one size; some may be empty."""
    if not any(run.parts for run in runs):
        return Ranges((), (0,) * partitions)
    firsts = pa.concat_tables(read_index(run) for run in runs)
    sizes = np.array([part.size_bytes for run in runs for part in run.parts], np.int64)
    places = [place for number, run in enumerate(runs) for place in _places(number, run)]
    order = pc.sort_indices(firsts, sort_keys=list(keys)).to_numpy()
    before = np.cumsum(sizes[order]) - sizes[order]
    total = int(sizes.sum())
    wanted = [total * number // partitions for number in range(1, partitions)]
    at = np.searchsorted(before, wanted).clip(max=len(order) - 1)
    cuts = tuple(Cut(firsts.slice(one, 1), *places[one]) for one in order[at].tolist())
    ends = [0, *before[at].tolist(), total]
    return Ranges(cuts, tuple(b - a for a, b in pairwise(ends)))


def _places(number: int, run: ExchangeFile) -> Iterator[tuple[int, int]]:
    """The run and the row at which each batch of it begins."""
    row = 0
    for part in run.parts:
        yield number, row
        row += part.rows


def find_row(
    number: int,
    run: ExchangeFile,
    cut: Cut,
    keys: Keys,
    read_keys: Callable[[int], pa.Table],
) -> int:
    """How many rows of a run come before a cut.

    Args:
        number: Which run it is.
        run: What its task left.
        cut: Where.
        keys: The order.
        read_keys: Gives the key columns of one of its batches.
    """
    if number == cut.run:
        return cut.row
    is_earlier = number < cut.run
    batch = _count_before(read_index(run), cut.key, keys, with_equal=is_earlier) - 1
    if batch < 0:
        return 0
    before = sum(part.rows for part in run.parts[:batch])
    return before + _count_before(read_keys(batch), cut.key, keys, with_equal=is_earlier)


def _count_before(table: pa.Table, key: pa.Table, keys: Keys, *, with_equal: bool) -> int:
    """Rows below a key, or not above it: a stable sort puts it after its equals, or before them."""
    columns = table.select(key.column_names)
    both = pa.concat_tables([columns, key] if with_equal else [key, columns])
    order = pc.sort_indices(both, sort_keys=list(keys)).to_numpy()
    return int(np.flatnonzero(order == (table.num_rows if with_equal else 0))[0])
