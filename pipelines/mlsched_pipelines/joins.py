"""Joins: which rows belong together by Acero, and their order by ours.

Only keys and row numbers go through the hash join. The pairs are sorted, and the columns of both
sides taken by them, so that the order of the output does not depend on how the join finds them,
and columns of every type can be carried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.aggregates import canonical, check_key, no_kernel
from mlsched_pipelines.schema import unknown_field
from mlsched_pipelines.steps import How, Join

Rows = npt.NDArray[np.int64]

_TYPES: dict[How, str] = {
    "inner": "inner",
    "left": "left outer",
    "semi": "left semi",
    "anti": "left anti",
}

Keys = str | Sequence[str] | Mapping[str, str]


def read_keys(on: Keys) -> tuple[tuple[str, str], ...]:
    """Keys as users write them: a name, several, or names of this plan and of the other."""
    if isinstance(on, str):
        return ((on, on),)
    pairs = tuple(on.items()) if isinstance(on, Mapping) else tuple((name, name) for name in on)
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


def join_rows(left: pa.Table, right: pa.Table, step: Join) -> tuple[pa.Table, Rows]:
    """The joined rows, in order of the left rows and then of the right, and their left rows.

    Memory: the keys of both sides, 16 bytes a pair, and the output.
    """
    pairs = _pairs(left, right, step)
    rows = np.asarray(pairs.column("left").to_numpy(), dtype=np.int64)
    made = left.take(pairs.column("left"))
    for name, new in step.columns:
        made = made.append_column(new, right.column(name).take(pairs.column("right")))
    return made, rows


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
    columns = {str(at): canonical(table.column(key)) for at, key in enumerate(keys)}
    return pa.table(columns | {name: pa.array(np.arange(table.num_rows, dtype=np.int64))})


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
