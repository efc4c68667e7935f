"""Schema contracts: what a table promises, and where a batch breaks the promise.

A contract is an Arrow schema with checks on values and a band for the number of rows. Sources, maps
and writers carry one; it is checked against headers and footers when a plan is made, and on every
batch when it runs. Finding violations is pure; what becomes of them is decided in `rows`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mlsched.errors import PipelineError, SchemaMismatchError

Bools = npt.NDArray[np.bool_]

_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
"""What views are read as; Polars writes them. Large, since a block may have more than 2 GiB."""

_LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
)

_SMALL = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}


class Check(Struct, frozen=True):
    """What the values of one field keep beside their type; nulls are judged by the schema alone."""

    minimum: Any = None
    """Smallest value allowed, itself included; NaN breaks it."""
    maximum: Any = None
    """Largest value allowed, itself included; NaN breaks it."""
    allowed: tuple[Any, ...] = ()
    """The only values allowed; empty allows all."""
    unique: bool = False
    """No value twice in the whole output; checked before the commit, with the column in memory."""


class Contract(Struct, frozen=True):
    """An Arrow schema, checks by field name, and how many rows there may be in all."""

    schema: pa.Schema
    checks: Mapping[str, Check] = {}
    rows_min: int = 0
    rows_max: int | None = None

    def __post_init__(self) -> None:
        if len(set(self.schema.names)) != len(self.schema.names):
            raise SchemaMismatchError(f"Field names must differ, found {self.schema.names}.")
        for field in self.schema:
            if _is_encoded(field.type):
                plain = plain_type(field.type)
                hint = "Leave it out of the schema, or write the input with plain types."
                raise SchemaMismatchError(
                    f"Field {field.name!r} is {field.type}, which Arrow cannot filter or sort.",
                    hint if _is_encoded(plain) else f"Promise {plain}: it is read as that.",
                )
        for name in self.checks:
            if name not in self.schema.names:
                raise unknown_field(name, self.schema.names, "a check names")

    def identity(self) -> bytes:
        """Bytes that are equal exactly for equal contracts."""
        checks = sorted((name, repr(check)) for name, check in self.checks.items())
        return repr(
            (self.schema.serialize().to_pybytes(), checks, self.rows_min, self.rows_max)
        ).encode()


class Violation(Struct, frozen=True):
    """One rule of one field, and the rows of a batch that break it."""

    field: str
    expected: str
    broken: Bools
    """One flag a row."""


def as_contract(promised: pa.Schema | Contract) -> Contract:
    """A plain schema as a contract without checks.

    Raises:
        PipelineError: it is neither.
    """
    if isinstance(promised, Contract):
        return promised
    expect(promised, pa.Schema, "schema", "pa.schema([('km', pa.float64())]), or a Contract of one")
    return Contract(promised)


def expect(given: object, kind: type, what: str, example: str) -> None:
    """What a user gives has the type that it must have.

    Raises:
        PipelineError: it has another.
    """
    if not isinstance(given, kind):
        found = f"{type(given).__name__}: {shorten(given)}"
        raise PipelineError(f"{what}: expected {kind.__name__}, found {found}.", f"Give {example}.")


def as_names(given: str | Sequence[str], what: str) -> tuple[str, ...]:
    """One name or several.

    Raises:
        PipelineError: it is something else.
    """
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise PipelineError(
            f"{what}: expected the names of columns, found {shorten(given)}.",
            "Give a name, or a list of names: ['zone', 'day'].",
        )
    return tuple(names)


def unknown_field(name: str, known: list[str], where: str) -> SchemaMismatchError:
    """The error for a field that is not there, with the nearest name that is."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    return SchemaMismatchError(f"{where} the field {name!r}, found only {sorted(known)}.", hint)


def mismatch(
    field: str, expected: str, found: object, file: str, row: int | None = None
) -> SchemaMismatchError:
    """The error for one broken promise: field, expected, found, file and row (counted from 1)."""
    place = file if row is None else f"{file}, row {row}"
    return SchemaMismatchError(
        f"{place}: field {field!r}: expected {expected}, found {shorten(found)}.",
        "Correct the data or the contract; write(rejects_max=N) sets bad rows aside instead.",
    )


def shorten(found: object, length_max: int = 80) -> str:
    """A value as short text for a message."""
    text = found if isinstance(found, str) else repr(found)
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that a source promises by default: as it is, with plain values."""
    fields = [field.with_type(plain_type(field.type)) for field in schema]
    return pa.schema(fields)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """What values are read as that are views, or encoded by runs; others as what they are."""
    return _without_views(kind.value_type if pa.types.is_run_end_encoded(kind) else kind)


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind])
    for is_kind, make in _LISTS:
        if is_kind(kind):
            item = kind.value_field
            return make(item.with_type(_without_views(item.type)))
    return _VIEWS.get(kind, kind)


def _is_encoded(kind: pa.DataType) -> bool:
    """Whether values are views or encoded by runs, at any depth."""
    if pa.types.is_run_end_encoded(kind) or kind in _VIEWS:
        return True
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    return any(_is_encoded(kind.field(at).type) for at in range(kind.num_fields))


def _is_read_as(found: pa.DataType, promised: pa.DataType) -> bool:
    plain = plain_type(found)
    return promised in {found, plain} or (found != plain and promised == _SMALL.get(plain))


def _decode(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    return column if column.type == kind else column.cast(kind)


def check_fields(contract: Contract, found: pa.Schema, file: str) -> None:
    """Every promised field is there with its type; others in the file are not looked at.

    Raises:
        SchemaMismatchError: a field is missing or has another type.
    """
    for field in contract.schema:
        at = found.get_field_index(field.name)
        if at < 0:
            raise unknown_field(field.name, found.names, f"{file}: the contract asks for")
        if not _is_read_as(found.field(at).type, field.type):
            raise SchemaMismatchError(
                f"{file}: field {field.name!r}: expected {field.type}, "
                f"found {found.field(at).type}.",
                f"Correct the schema, or cast the column to {field.type}.",
            )


def conform(contract: Contract, batch: pa.RecordBatch, file: str) -> pa.RecordBatch:
    """The batch with exactly the promised fields in the promised order.

    No data is copied, but for views and what is encoded by runs, which become plain values.

    Raises:
        SchemaMismatchError: a field is missing, has another type, or was not promised.
    """
    if batch.schema.equals(contract.schema, check_metadata=True):
        return batch
    check_fields(contract, batch.schema, file)
    extra = set(batch.schema.names) - set(contract.schema.names)
    if extra or len(batch.schema.names) != len(contract.schema.names):
        raise SchemaMismatchError(
            f"{file}: expected the fields {contract.schema.names}, found {batch.schema.names}.",
            "Name the new fields in the schema of the map, or drop them.",
        )
    columns = [_decode(batch.column(field.name), field.type) for field in contract.schema]
    return pa.RecordBatch.from_arrays(columns, schema=contract.schema)


def find_violations(contract: Contract, batch: pa.RecordBatch) -> list[Violation]:
    """Which rows break which rule; the batch has the contract's schema.

    Cost: one pass over each field that has a rule, none over the others.
    """
    found: list[Violation] = []
    for field, column in zip(contract.schema, batch.columns, strict=True):
        if not field.nullable and column.null_count:
            found.append(Violation(field.name, "no null", _as_flags(pc.is_null(column))))
        check = contract.checks.get(field.name)
        if check is not None:
            found.extend(_value_violations(field.name, column, check))
    return found


def _value_violations(name: str, column: pa.Array, check: Check) -> list[Violation]:
    rules: list[tuple[str, pa.Array]] = []
    if check.minimum is not None:
        kept = pc.greater_equal(column, pa.scalar(check.minimum, column.type))
        rules.append((f"a value >= {check.minimum}", kept))
    if check.maximum is not None:
        kept = pc.less_equal(column, pa.scalar(check.maximum, column.type))
        rules.append((f"a value <= {check.maximum}", kept))
    if check.allowed:
        kept = pc.is_in(column, value_set=pa.array(check.allowed, column.type))
        rules.append((f"one of {list(check.allowed)}", kept))
    found = [Violation(name, expected, _broken(kept, column)) for expected, kept in rules]
    return [violation for violation in found if violation.broken.any()]


def _broken(kept: pa.Array, column: pa.Array) -> Bools:
    """Rows whose value is there and was not kept: whether null is allowed is another rule."""
    valid = pc.is_valid(column)
    return _as_flags(pc.and_(pc.invert(kept.fill_null(False)), valid))


def _as_flags(array: pa.Array) -> Bools:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)


def check_row_count(contract: Contract, rows: int, what: str) -> None:
    """The number of rows lies within the contract's band.

    Raises:
        PipelineError: too few or too many rows.
    """
    upper = contract.rows_max if contract.rows_max is not None else rows
    if not contract.rows_min <= rows <= upper:
        band = (
            f"{contract.rows_min}..{contract.rows_max if contract.rows_max is not None else 'any'}"
        )
        raise PipelineError(f"{what}: expected {band} rows, found {rows}. Nothing was published.")
