"""Joins, groups and filters over all inputs: as pandas and Arrow say, however the work is cut."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsched_pipelines import LocalEngine, Plan, joins, open_dataset, parquet, run, sorts, table
from mlsched_pipelines.manifests import ExchangeFile, Part
from mlsched_pipelines.partitions import assign_partitions

settings.register_profile("pipelines", deadline=None, max_examples=40)
law = settings(settings.get_profile("pipelines"))

KEYS = st.one_of(st.none(), st.integers(-3, 3))
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "ä", "a\x00"]))
FLOATS = st.one_of(
    st.none(), st.sampled_from([0.0, -0.0, float("nan"), float("inf")]), st.floats(-1e6, 1e6)
)
ROWS = st.lists(st.tuples(KEYS, TEXTS, FLOATS), max_size=30)
SCHEMA = pa.schema([("k", pa.int64()), ("t", pa.string()), ("f", pa.float64())])


def table_of(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)


def result_of(plan: Plan, workers: int = 1) -> tuple[pa.Table, str]:
    """What a plan writes, and the digest of it; the account of its rows is checked by the run."""
    with tempfile.TemporaryDirectory() as folder, LocalEngine(workers) as engine:
        run(plan.write(Path(folder) / "out"), engine=engine)
        dataset = open_dataset(Path(folder) / "out")
        return pa.table(dataset.to_table().to_pydict(), dataset.schema), dataset.digest


def rows_of(data: pa.Table) -> list[str]:
    return [repr(row) for row in data.to_pylist()]


def pairs(left: pa.Table, right: pa.Table, how: str) -> list[str]:
    """The join as its definition says: every row against every row."""
    found: list[dict[str, Any]] = []
    for mine in left.to_pylist():
        matches = [
            other
            for other in right.to_pylist()
            if None not in (mine["k"], mine["t"])
            and (mine["k"], mine["t"]) == (other["k"], other["t"])
        ]
        if how in {"semi", "anti"}:
            found += [mine] * (bool(matches) == (how == "semi"))
        elif matches:
            found += [mine | {"f_r": other["f"]} for other in matches]
        elif how == "left":
            found.append(mine | {"f_r": None})
    return [repr(row) for row in found]


@law
@given(
    left=ROWS,
    right=ROWS,
    how=st.sampled_from(["inner", "left", "semi", "anti"]),
    partitions=st.integers(0, 3),
    split_rows=st.integers(1, 20),
    piece_bytes=st.sampled_from([1, 1 << 20]),
)
def test_a_join_gives_the_pairs_of_its_definition(
    left: Any, right: Any, how: Any, partitions: int, split_rows: int, piece_bytes: int
) -> None:
    mine, theirs = table_of(left), table_of(right)
    plan = Plan.scan(table(mine, split_rows=split_rows)).join(
        Plan.scan(table(theirs, split_rows=7)),
        on=["k", "t"],
        how=how,
        suffix="_r",
        broadcast=partitions == 0,
        partitions=partitions or None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joins, "PIECE_BYTES_MIN", piece_bytes)
        found = rows_of(result_of(plan)[0])
    expected = pairs(mine, theirs, how)
    if partitions > 1:
        found, expected = sorted(found), sorted(expected)
    assert found == expected


AGGREGATES = {
    "rows": "count",
    "n": ("f", "count"),
    "sum": ("f", "sum"),
    "mean": ("f", "mean"),
    "low": ("k", "min"),
    "high": ("t", "max"),
}


@law
@given(
    rows=ROWS,
    keys=st.sampled_from([["k"], ["t"], ["f"], ["k", "t"], []]),
    partitions=st.integers(1, 3),
    split_rows=st.integers(1, 40),
)
def test_a_group_by_gives_what_pandas_gives(
    rows: Any, keys: list[str], partitions: int, split_rows: int
) -> None:
    data = table_of(rows)
    plan = Plan.scan(table(data, split_rows=split_rows))
    made = result_of(plan.group_by(keys, AGGREGATES, partitions=partitions))[0]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in data.to_pylist():
        row["f"] = 0.0 if row["f"] == 0 else row["f"]
        groups.setdefault(tuple(repr(row[key]) for key in keys), []).append(row)
    if not keys and not groups:
        groups[()] = []
    found = {tuple(repr(row[key]) for key in keys): row for row in made.to_pylist()}
    assert found.keys() == groups.keys()
    assert made.num_rows == len(found)
    for key, members in groups.items():
        values = pd.Series([m["f"] for m in members if m["f"] is not None], dtype="float64")
        row = found[key]
        assert (row["rows"], row["n"]) == (len(members), len(values))
        total = values.sum(skipna=False) if len(values) else None
        assert (
            row["sum"] == pytest.approx(total, nan_ok=True) if len(values) else row["sum"] is None
        )
        if len(values):
            assert row["mean"] == pytest.approx(total / len(values), nan_ok=True)
        assert row["low"] == min((m["k"] for m in members if m["k"] is not None), default=None)
        assert row["high"] == max((m["t"] for m in members if m["t"] is not None), default=None)


ORDERS = st.sampled_from(["ascending", "descending"])


@law
@given(
    rows=st.lists(st.tuples(KEYS, TEXTS, FLOATS), max_size=60),
    keys=st.lists(st.tuples(st.sampled_from("ktf"), ORDERS), min_size=1, max_size=3),
    partitions=st.integers(1, 5),
    split_rows=st.integers(1, 40),
    batch_rows=st.integers(1, 5),
    workers=st.integers(1, 2),
)
def test_a_sort_gives_one_order_however_it_is_cut(
    rows: Any, keys: Any, partitions: int, split_rows: int, batch_rows: int, workers: int
) -> None:
    data = table_of(rows).append_column("at", [range(len(rows))])
    plan = Plan.scan(table(data, split_rows=split_rows)).sort(keys, partitions=partitions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorts, "RUN_BATCH_ROWS", batch_rows)
        found = rows_of(result_of(plan, workers)[0])
    expected = list(range(len(rows)))
    for name, order in reversed(keys):
        values = data[name].to_pylist()
        expected = in_order(expected, values, is_descending=order == "descending")
    assert found == rows_of(data.take(pa.array(expected, pa.int64())))


def in_order(at: list[int], values: list[Any], *, is_descending: bool) -> list[int]:
    """Numbers of rows, stably by value; NaN and then null come last."""
    plain = [one for one in at if values[one] is not None and values[one] == values[one]]
    nans = [one for one in at if values[one] is not None and values[one] != values[one]]
    nulls = [one for one in at if values[one] is None]
    sign = -1 if is_descending else 1
    ranks = {value: sign * rank for rank, value in enumerate(sorted({values[o] for o in plain}))}
    return [*sorted(plain, key=lambda one: ranks[values[one]]), *nans, *nulls]


@law
@given(
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=200),
    partitions=st.integers(1, 8),
    split_rows=st.integers(20, 100),
)
def test_ranges_of_a_sort_are_of_one_size_even_where_keys_are_equal(
    rows: list[int], partitions: int, split_rows: int
) -> None:
    tables = [pa.table({"k": rows[at : at + split_rows]}) for at in range(0, len(rows), split_rows)]
    keys: Any = [("k", "ascending")]
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorts, "RUN_BATCH_ROWS", 4)
        for one in tables:
            batches, index = sorts.cut_run(sorts.sort_rows(one, keys), keys)
            counts = [sum(batch.num_rows for batch in part) for part in batches]
            parts = tuple(Part(at, at + 1, n, 8 * n) for at, n in enumerate(counts))
            runs.append(ExchangeFile("", 0, parts, index))
    sizes = sorts.find_ranges(runs, keys, partitions).sizes_bytes
    assert sum(sizes) == 8 * len(rows)
    assert max(sizes) <= 8 * (-(-len(rows) // partitions) + 4)


@law
@given(rows=st.lists(st.tuples(KEYS, TEXTS, FLOATS), min_size=1, max_size=30), data=st.data())
def test_a_row_group_that_is_not_read_holds_no_row_that_passes(rows: Any, data: Any) -> None:
    content = table_of(rows)
    field = data.draw(st.sampled_from(["k", "f"]))
    bound = data.draw(st.integers(-4, 4))
    operator = data.draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
    one, other = pc.field(field), pc.scalar(bound)
    condition = {
        "<": one < other, "<=": one <= other, ">": one > other,
        ">=": one >= other, "==": one == other, "!=": one != other,
    }[operator]  # fmt: skip
    condition = ~condition if data.draw(st.booleans()) else condition
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.parquet"
        pq.write_table(content, path, row_group_size=data.draw(st.integers(1, 10)))
        plan = Plan.scan(parquet(path, split_bytes=200)).filter(condition)
        found = result_of(plan)[0]
    expected = rows_of(result_of(Plan.scan(table(content)).filter(condition))[0])
    assert rows_of(found) == expected
    report_rows = plan.pruned.rows + sum(split.size_bytes >= 0 for split in plan.splits)
    assert 0 <= plan.pruned.rows <= len(rows) <= max(report_rows, len(rows))


@law
@given(rows=ROWS, workers=st.integers(1, 4))
def test_any_number_of_workers_gives_the_same_bits(rows: Any, workers: int) -> None:
    source = table(table_of(rows), split_rows=4)
    plan = (
        Plan.scan(source)
        .filter(pc.field("k") > -3)
        .join(Plan.scan(table(table_of(rows))), on="t", suffix="_r", partitions=3)
        .group_by(["k", "t"], AGGREGATES, partitions=2)
    )
    assert result_of(plan, workers)[1] == result_of(plan)[1]


@given(
    values=st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))), count=st.integers(1, 9)
)
def test_equal_keys_have_equal_partitions_whatever_is_beside_them(
    values: list[int | None], count: int
) -> None:
    whole = pa.table({"a": pa.array(values, pa.int64())})
    at = assign_partitions(whole, ["a"], count)
    alone = [
        int(assign_partitions(pa.table({"b": pa.array([v], pa.int64())}), ["b"], count)[0])
        for v in values
    ]
    assert at.tolist() == alone
    assert all(0 <= each < count for each in alone)
