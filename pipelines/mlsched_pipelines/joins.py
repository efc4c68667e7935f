"""Joins: which rows belong together by Acero, and their order by ours.

Only keys and row numbers go through the hash join. The pairs are sorted, and the columns of both
sides taken by them, so that the order of the output does not depend on how the join finds them,
and columns of every type can be carried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.aggregates import canonical, check_key, no_kernel
from mlsched_pipelines.schema import as_names, unknown_field
from mlsched_pipelines.steps import How, Join

Rows = npt.NDArray[np.int64]

PIECE_BYTES_MIN = 64 << 20
"""Output of a join up to which it is never cut."""

_TYPES: dict[How, str] = {
    "inner": "inner",
    "left": "left outer",
    "semi": "left semi",
    "anti": "left anti",
}

Keys = str | Sequence[str] | Mapping[str, str]


def read_keys(on: Keys) -> tuple[tuple[str, str], ...]:
    """Keys as users write them: a name, several, or names of this plan and of the other."""
    if isinstance(on, Mapping):
        pairs = tuple(on.items())
    else:
        pairs = tuple((name, name) for name in as_names(on, "join"))
    if not pairs:
        raise PipelineError("join: expected at least one key, found none.")
    return pairs


def check_join(
    keys: tuple[tuple[str, str], ...], how: str, left: pa.Schema, right: pa.Schema
) -> None:
    """The keys are there, with equal types.

    Raises:
        SchemaMismatchError: a key is missing, nested, or has different types.
        PipelineError: there is no such kind of join.
    """
    if how not in _TYPES:
        raise PipelineError(
            f"join: expected how to be one of {', '.join(_TYPES)}, found {how!r}.",
            "For a right join, join the other way round.",
        )
    for mine, theirs in keys:
        for name, schema in ((mine, left), (theirs, right)):
            if name not in schema.names:
                raise unknown_field(name, schema.names, "join asks for")
            check_key(schema.field(name), "join")
        one, other = (_plain(s.field(n).type) for s, n in ((left, mine), (right, theirs)))
        if one != other:
            raise SchemaMismatchError(
                f"join: expected keys of one type, found {mine!r} of {one} and {theirs!r} of "
                f"{other}.",
                f"Cast one before: pc.field({theirs!r}).cast({str(one)!r}).",
            )
        nothing = pa.schema([("", one)]).empty_table()
        try:
            _pairs(nothing, nothing, Join((("", ""),), "inner", (), 0))
        except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise no_kernel("join", (mine,), left) from error


def added_columns(
    keys: tuple[tuple[str, str], ...], how: str, left: pa.Schema, right: pa.Schema, suffix: str
) -> tuple[tuple[str, str], ...]:
    """Columns of the other side in the output, and their names there.

    Raises:
        SchemaMismatchError: two columns would have one name.
    """
    if how in {"semi", "anti"}:
        return ()
    theirs = [name for name in right.names if name not in {key for _, key in keys}]
    added = tuple((name, name + suffix if name in left.names else name) for name in theirs)
    names = [*left.names, *(new for _, new in added)]
    for name in names:
        if names.count(name) > 1:
            raise SchemaMismatchError(
                f"join: both sides have a column {name!r}.",
                "Project it away on one side, or tell them apart: join(..., suffix='_right').",
            )
    return added


def joined_schema(left: pa.Schema, step: Join, right: pa.Schema) -> pa.Schema:
    """The fields of the output; those of the other side may be null where rows are kept."""
    added = [right.field(name).with_name(new) for name, new in step.columns]
    if step.how == "left":
        added = [field.with_nullable(True) for field in added]
    return pa.schema([*left, *added])


def join_rows(left: pa.Table, right: pa.Table, step: Join) -> Iterator[tuple[pa.Table, int, Rows]]:
    """The joined rows, in order of the left rows and then of the right.

    Where keys are equal many times on both sides, the output is many times the input: it comes in
    pieces about as large as the input.

    Memory: the keys of both sides, 16 bytes a pair, and a piece.

    Yields:
        A piece, how many left rows it is made of, and for each of its rows the left row among them.
    """
    for start, stop in pairwise(_cuts(left, right, step)):
        yield _join_piece(left.slice(start, stop - start), right, step)


def _cuts(left: pa.Table, right: pa.Table, step: Join) -> list[int]:
    """Where to cut the left rows, so that no piece gives more rows than fit beside the input."""
    ends = [0, left.num_rows]
    if step.how in {"semi", "anti"} or not left.num_rows or not right.num_rows:
        return ends
    row_bytes = left.nbytes / left.num_rows + right.nbytes / right.num_rows
    rows_max = int(max(PIECE_BYTES_MIN, left.nbytes + right.nbytes) / max(1, row_bytes))
    if left.num_rows * right.num_rows <= rows_max:
        return ends
    names = [str(at) for at in range(len(step.keys))]
    theirs = _numbered(right, step.right_keys, "right").drop_null()
    matches = theirs.group_by(names, use_threads=False).aggregate([([], "count_all")])
    most = pc.max(matches.column("count_all")).as_py() or 0
    if left.num_rows * most <= rows_max:
        return ends
    mine = _numbered(left, step.left_keys, "left")
    found = mine.join(matches, keys=names, join_type="left outer", use_threads=False)
    counts = np.zeros(left.num_rows, np.int64)
    counts[found.column("left").to_numpy()] = found.column("count_all").fill_null(1).to_numpy()
    piece = np.cumsum(counts) // rows_max
    return [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), left.num_rows]


def _join_piece(left: pa.Table, right: pa.Table, step: Join) -> tuple[pa.Table, int, Rows]:
    pairs = _pairs(left, right, step)
    rows = np.asarray(pairs.column("left").to_numpy(), dtype=np.int64)
    made = left.take(pairs.column("left"))
    for name, new in step.columns:
        made = made.append_column(new, right.column(name).take(pairs.column("right")))
    return made, left.num_rows, rows


def _pairs(left: pa.Table, right: pa.Table, step: Join) -> pa.Table:
    """Row numbers of both sides that belong together; null where a left row is alone."""
    names = [str(at) for at in range(len(step.keys))]
    mine = _numbered(left, [key for key, _ in step.keys], "left")
    theirs = _numbered(right, [key for _, key in step.keys], "right")
    found = mine.join(theirs, keys=names, join_type=_TYPES[step.how], use_threads=False)
    order = [("left", "ascending")]
    if "right" in found.schema.names:
        order.append(("right", "ascending"))
    found = found.select([name for name, _ in order])
    return found.take(pc.sort_indices(found, sort_keys=order))


def _numbered(table: pa.Table, keys: Sequence[str], name: str) -> pa.Table:
    columns = {str(at): canonical(_stored(table.column(key))) for at, key in enumerate(keys)}
    return pa.table(columns | {name: pa.array(np.arange(table.num_rows, dtype=np.int64))})


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    return column.cast(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else column


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
