"""Group-by in two steps: partial results of each task, merged in the order of the tasks.

Partials of sums and means are 64 bits wide whatever the column is, and every kernel runs on one
thread, so that the same rows in the same tasks give the same bits on every engine. The groups are
sorted by their keys: their order does not depend on how a kernel finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.schema import expect, unknown_field
from mlsched_pipelines.steps import Aggregate, GroupBy

FUNCTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "count": (("count", "sum"),),
    "sum": (("sum", "sum"),),
    "mean": (("sum", "sum"), ("count", "sum")),
    "min": (("min", "min"),),
    "max": (("max", "max"),),
    "any": (("any", "any"),),
    "all": (("all", "all"),),
}
"""By name: for each partial column the kernel that makes it and the one that merges it. Nulls are
left out; a group without any other value gives null (0 for a count)."""

AggregateLike = str | tuple[str, str]


def read_aggregates(given: Mapping[str, AggregateLike]) -> tuple[Aggregate, ...]:
    """Aggregates as users write them: ``{"rides": "count", "km": ("km", "mean")}``.

    Raises:
        PipelineError: a function that does not exist, or a field is missing.
    """
    example = '{"rides": "count", "km": ("km", "mean")}'
    expect(given, Mapping, "group_by: aggregates", example)
    found: list[Aggregate] = []
    for name, what in given.items():
        if not isinstance(what, str) and len(what) != 2:
            raise PipelineError(
                f"group_by: {name!r}: expected (field, function), found {what!r}.",
                f"Give {example}.",
            )
        field, function = ("", what) if isinstance(what, str) else what
        if function not in FUNCTIONS:
            raise PipelineError(
                f"group_by: {name!r}: expected one of {', '.join(FUNCTIONS)}, found {function!r}."
            )
        if not field and function != "count":
            raise PipelineError(
                f"group_by: {name!r}: {function} needs a field.",
                f'Write {name}=("FIELD", {function!r}); "count" alone counts rows.',
            )
        found.append(Aggregate(name, field, function))
    return tuple(found)


def check_group_by(step: GroupBy, schema: pa.Schema) -> pa.Schema:
    """The fields of the output.

    Raises:
        SchemaMismatchError: a field is not there, cannot be a key, or has no such aggregate.
    """
    for name in (*step.keys, *(each.field for each in step.aggregates if each.field)):
        if name not in schema.names:
            raise unknown_field(name, schema.names, "group_by asks for")
    names = [*step.keys, *(each.name for each in step.aggregates)]
    if len(set(names)) != len(names):
        raise SchemaMismatchError(f"group_by: expected different names, found {names}.")
    if not names:
        raise PipelineError("group_by: expected a key or an aggregate, found neither.")
    for name in step.keys:
        check_key(schema.field(name), "group_by")
        _try_on_nothing(GroupBy((name,), (), 1), schema, f"group_by: {name!r} cannot be a key")
    for each in step.aggregates:
        _try_on_nothing(GroupBy((), (each,), 1), schema, f"group_by: {each} is not possible")
    return merge_partials(step, [make_partial(step, schema.empty_table())]).schema


def check_key(field: pa.Field, what: str) -> None:
    """A field whose values can be compared and hashed.

    Raises:
        SchemaMismatchError: it is nested.
    """
    if pa.types.is_nested(field.type) or pa.types.is_null(field.type):
        raise SchemaMismatchError(f"{what}: {field.name!r} of type {field.type} cannot be a key.")


def no_kernel(what: str, names: Sequence[str], schema: pa.Schema) -> SchemaMismatchError:
    """The error for fields of types that Arrow has no kernel for."""
    kinds = ", ".join(f"{name!r} is {schema.field(name).type}" for name in names)
    return SchemaMismatchError(
        f"{what}: {kinds}, for which Arrow has no kernel.",
        "Cast it to a plain type before: project, with pc.field(NAME).cast(TYPE).",
    )


def _try_on_nothing(step: GroupBy, schema: pa.Schema, what: str) -> None:
    names = [*step.keys, *(each.field for each in step.aggregates if each.field)]
    nothing = pa.schema([schema.field(name) for name in names]).empty_table()
    try:
        merge_partials(step, [make_partial(step, nothing)])
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise no_kernel(what, names, schema) from error


def make_partial(step: GroupBy, table: pa.Table) -> pa.Table:
    """The partial result of one task: keys, then the partial columns ``0``, ``1`` and so on."""
    columns = {name: canonical(table.column(name)) for name in step.keys}
    asked: list[tuple[str | list[str], str]] = []
    for at, each in enumerate(step.aggregates):
        if each.field:
            columns[f"in{at}"] = _widened(table.column(each.field), each)
        kernels = [kernel for kernel, _ in FUNCTIONS[each.function]]
        asked += [(f"in{at}", kernel) if each.field else ([], "count_all") for kernel in kernels]
    whole = _as_table(columns, table.num_rows)
    made = _grouped(whole, step.keys, asked)
    _check_sums(step, whole, made, [column for column, _ in asked])
    return made


def merge_partials(step: GroupBy, partials: Sequence[pa.Table]) -> pa.Table:
    """The groups of all partials, sorted by key; sums add up in the order of the partials."""
    whole = pa.concat_tables(partials)
    merges = [merge for each in step.aggregates for _, merge in FUNCTIONS[each.function]]
    asked: list[tuple[str | list[str], str]] = [(str(at), by) for at, by in enumerate(merges)]
    merged = _grouped(whole, step.keys, asked)
    _check_sums(step, whole, merged, [column for column, _ in asked])
    columns = {name: merged.column(name) for name in step.keys}
    at = 0
    for each in step.aggregates:
        count = len(FUNCTIONS[each.function])
        columns[each.name] = _final([merged.column(str(at + i)) for i in range(count)], each)
        at += count
    table = pa.table(columns)
    if not step.keys:
        return table
    return table.take(pc.sort_indices(table, sort_keys=[(key, "ascending") for key in step.keys]))


def canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keys in one form: plain values, one zero and one NaN."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_floating(kind):
        zeros = pc.equal(column, pa.scalar(0, kind))
        column = pc.if_else(zeros, pa.scalar(0.0, kind), column)
        column = pc.if_else(pc.is_nan(column), pa.scalar(float("nan"), kind), column)
    return column


def _as_table(columns: Mapping[str, pa.ChunkedArray], rows: int) -> pa.Table:
    """A table of so many rows, also where nothing but rows is counted."""
    return pa.table(dict(columns)) if columns else pa.table({"": pa.nulls(rows)})


def _grouped(
    table: pa.Table, keys: Sequence[str], asked: Sequence[tuple[str | list[str], str]]
) -> pa.Table:
    """Keys first, then the aggregates, which are named by their number."""
    made = table.group_by(list(keys), use_threads=False).aggregate(list(asked))
    return made.rename_columns([*keys, *map(str, range(len(asked)))])


def _check_sums(
    step: GroupBy, table: pa.Table, made: pa.Table, columns: Sequence[str | list[str]]
) -> None:
    """Whole numbers and decimals that overflow begin again at the other end: Arrow says nothing.

    Where the largest value times the rows would be too much, floats tell which group it is.

    Raises:
        PipelineError: the sum of a group does not fit its type.
    """
    at = 0
    for each in step.aggregates:
        name, total = columns[at], made.column(len(step.keys) + at)
        at += len(FUNCTIONS[each.function])
        limit = _limit(total.type) if each.function == "sum" else None
        if limit is None or _is_far_below(limit, table.column(name)):
            continue
        values = table.column(name).cast(pa.float64(), safe=False)
        floats = table.select(step.keys).append_column("about", values)
        about = _grouped(floats, step.keys, [("about", "sum")]).column("0")
        off = pc.abs(pc.subtract(about, total.cast(pa.float64(), safe=False)))
        wrong = pc.greater(off, limit / 2)
        if pc.any(wrong).as_py():
            found = about.filter(wrong)[0].as_py()
            raise PipelineError(
                f"group_by: {each} is about {found:.4g} in one group, more than fits {total.type}.",
                f"Cast it before, to decimal256 or to float64: pc.field({each.field!r}).cast(...).",
            )


def _limit(kind: pa.DataType) -> float | None:
    """What a sum must be below; None for floats, which have infinity."""
    if pa.types.is_decimal(kind):
        return float(10.0 ** (kind.precision - kind.scale))
    if pa.types.is_integer(kind):
        return float(2.0 ** (kind.bit_width - pa.types.is_signed_integer(kind)))
    return None


def _is_far_below(limit: float, column: pa.ChunkedArray) -> bool:
    if pa.types.is_boolean(column.type):
        return True
    ends = (end.as_py() for end in pc.min_max(column).values())
    return all(end is None or abs(float(end)) * len(column) < limit / 2 for end in ends)


def _widened(column: pa.ChunkedArray, each: Aggregate) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if each.function in {"any", "all"} and not pa.types.is_boolean(kind):
        raise _unfit(each, kind, "bool")
    if each.function in {"sum", "mean"}:
        if pa.types.is_floating(kind) or (each.function == "mean" and pa.types.is_integer(kind)):
            return column.cast(pa.float64(), safe=False)
        is_fit = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if not is_fit and not (each.function == "sum" and pa.types.is_decimal(kind)):
            raise _unfit(each, kind, "a number")
    if each.function in {"min", "max"} and pa.types.is_nested(kind):
        raise _unfit(each, kind, "plain values")
    return column


def _unfit(each: Aggregate, kind: pa.DataType, wanted: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"group_by: {each} needs {wanted}, {each.field!r} is {kind}.",
        f"Cast it before: project, with pc.field({each.field!r}).cast(TYPE).",
    )


def _final(parts: list[pa.ChunkedArray], each: Aggregate) -> pa.ChunkedArray:
    if each.function == "mean":
        return pc.divide(parts[0].cast(pa.float64()), parts[1].cast(pa.float64()))
    if each.function == "count":
        return parts[0].fill_null(0)
    return parts[0]
