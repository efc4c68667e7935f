"""Contracts: what is found wrong, and what the message says about it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.schema import (
    Check,
    Contract,
    check_fields,
    check_row_count,
    conform,
    find_violations,
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("price", pa.float64()),
        pa.field("side", pa.string()),
    ]
)


def batch(**columns: list[object]) -> pa.RecordBatch:
    full = {"id": [1, 2], "price": [1.0, 2.0], "side": ["buy", "sell"]} | columns
    return pa.RecordBatch.from_pydict(full, schema=SCHEMA)


def broken(contract: Contract, found: pa.RecordBatch) -> dict[str, list[bool]]:
    return {each.field: each.broken.tolist() for each in find_violations(contract, found)}


def test_a_batch_that_keeps_everything_has_no_violation() -> None:
    contract = Contract(SCHEMA, {"price": Check(minimum=0), "side": Check(allowed=("buy", "sell"))})
    assert broken(contract, batch()) == {}


def test_null_breaks_only_a_field_that_forbids_it() -> None:
    found = batch(id=[None, 2], price=[None, 1.0])
    contract = Contract(SCHEMA, {"price": Check(minimum=0, allowed=(1.0,))})
    assert broken(contract, found) == {"id": [True, False]}


@pytest.mark.parametrize(
    ("check", "prices", "expected"),
    [
        (Check(minimum=0), [-1.0, 0.0], [True, False]),
        (Check(maximum=2), [2.0, 2.5], [False, True]),
        (Check(minimum=0), [float("nan"), 1.0], [True, False]),
        (Check(allowed=(1.0, 3.0)), [1.0, 2.0], [False, True]),
    ],
)
def test_values_outside_a_rule_are_found(
    check: Check, prices: list[object], expected: list[bool]
) -> None:
    assert broken(Contract(SCHEMA, {"price": check}), batch(price=prices)) == {"price": expected}


def test_a_missing_field_names_the_nearest_one_that_is_there() -> None:
    found = pa.schema([("id", pa.int64()), ("prise", pa.float64()), ("side", pa.string())])
    with pytest.raises(SchemaMismatchError, match=r"day\.csv.*'price'") as caught:
        check_fields(Contract(SCHEMA), found, "day.csv")
    assert caught.value.hint == "Did you mean 'prise'?"


def test_another_type_names_field_expected_found_and_file() -> None:
    found = pa.schema([("id", pa.int64()), ("price", pa.string()), ("side", pa.string())])
    expected = r"day\.csv: field 'price': expected double, found string"
    with pytest.raises(SchemaMismatchError, match=expected):
        check_fields(Contract(SCHEMA), found, "day.csv")


def test_fields_are_put_into_the_promised_order_without_a_copy() -> None:
    given = batch().select(["side", "price", "id"])
    made = conform(Contract(SCHEMA), given, "x")
    assert made.schema == SCHEMA
    assert made.column("price").buffers()[1].address == given.column("price").buffers()[1].address


def test_a_field_that_was_not_promised_is_an_error() -> None:
    extra = batch().append_column("more", pa.array([1, 2]))
    with pytest.raises(SchemaMismatchError, match="more"):
        conform(Contract(SCHEMA), extra, "x")


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (pa.string_view(), "Promise large_string"),
        (pa.run_end_encoded(pa.int32(), pa.int64()), "Promise int64"),
        (pa.list_(pa.binary_view()), "Promise list<item: large_binary>"),
        (pa.list_view(pa.int64()), "Leave it out"),
        (pa.map_(pa.string(), pa.string_view()), "Leave it out"),
    ],
)
def test_what_arrow_cannot_filter_is_not_promised(kind: pa.DataType, hint: str) -> None:
    with pytest.raises(SchemaMismatchError, match=r"'x' is .*, which Arrow cannot") as found:
        Contract(pa.schema([("x", kind)]))
    assert hint in found.value.hint


def test_a_check_of_a_field_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(SchemaMismatchError, match="'prize'"):
        Contract(SCHEMA, {"prize": Check(minimum=0)})


def test_the_identity_follows_types_checks_and_band() -> None:
    variants = [
        Contract(SCHEMA),
        Contract(SCHEMA, {"price": Check(minimum=0)}),
        Contract(SCHEMA, {"price": Check(minimum=1)}),
        Contract(SCHEMA, rows_min=1),
        Contract(SCHEMA.remove(2)),
    ]
    assert len({each.identity() for each in variants}) == len(variants)
    assert Contract(SCHEMA, {"price": Check(minimum=0)}).identity() == variants[1].identity()


@pytest.mark.parametrize("rows", [1, 11])
def test_a_row_count_outside_the_band_is_an_error(rows: int) -> None:
    with pytest.raises(PipelineError, match=rf"expected 2\.\.10 rows, found {rows}"):
        check_row_count(Contract(SCHEMA, rows_min=2, rows_max=10), rows, "The output")


def test_flags_have_one_entry_a_row() -> None:
    found = find_violations(Contract(SCHEMA, {"price": Check(minimum=5)}), batch())
    assert [each.broken.dtype for each in found] == [np.dtype(bool)]
    assert [len(each.broken) for each in found] == [2]
