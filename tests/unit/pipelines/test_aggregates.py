"""Sums that do not fit: the right number or an error, never another number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from mlsched.errors import PipelineError
from mlsched_pipelines.aggregates import make_partial, merge_partials
from mlsched_pipelines.steps import Aggregate, GroupBy

NINES = Decimal("9" * 36 + ".99")


def grouped(values: pa.Array, function: str, rows: int) -> list[Any]:
    """An aggregate over two groups, made of partials of so many rows each."""
    step = GroupBy(("k",), (Aggregate("v", "x", function),), 1)
    data = pa.table({"k": [at % 2 for at in range(len(values))], "x": values})
    parts = [data.slice(at, rows) for at in range(0, len(data), rows)]
    found: list[Any] = merge_partials(step, [make_partial(step, part) for part in parts])[
        "v"
    ].to_pylist()
    return found


@pytest.mark.parametrize("rows", [2, 100])
@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2**62] * 3),
        pa.array([1, -(2**62)] * 3),
        pa.array([1, 2**63] * 2, pa.uint64()),
        pa.array([Decimal(1), NINES] * 200, pa.decimal128(38, 2)),
        pa.array([Decimal(1), NINES.copy_negate()] * 200, pa.decimal128(38, 2)),
    ],
)
def test_a_sum_that_overflows_is_an_error_with_a_way_out(values: pa.Array, rows: int) -> None:
    with pytest.raises(PipelineError, match=r"v = sum\(x\) is about") as caught:
        grouped(values, "sum", rows)
    assert "cast" in caught.value.hint


@pytest.mark.parametrize("rows", [1, 100])
def test_large_sums_that_fit_are_exact(rows: int) -> None:
    assert grouped(pa.array([1, 2**62 - 1, 2, 2**62]), "sum", rows) == [3, 2**63 - 1]
    large = pa.array([1, 2**63, 2, 2**63 - 1], pa.uint64())
    assert grouped(large, "sum", rows) == [3, 2**64 - 1]
    assert grouped(pa.array([NINES, NINES]), "sum", rows) == [NINES, NINES]


@pytest.mark.parametrize("rows", [1, 100])
def test_a_mean_of_whole_numbers_is_right_where_their_sum_does_not_fit(rows: int) -> None:
    assert grouped(pa.array([1, 2**62] * 8), "mean", rows) == [1.0, 2.0**62]
    assert grouped(pa.array([1, 2**63] * 8, pa.uint64()), "mean", rows) == [1.0, 2.0**63]
