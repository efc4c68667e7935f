"""What a shard can hold, and how many of them a task can write."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from mlsched_pipelines import Plan, open_dataset, run, table

INTEGERS = pa.array([-(2**62), None, 123_456_789, 2**62])
KINDS = [
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    pa.timestamp("us", "Mars/Phobos"),
    pa.time64("ns"),
    pa.date64(),
    pa.float64(),
]
ODD = [
    pa.array([1.0, float("nan"), None], pa.float16()),
    pa.array([-(2**31), 2**31 - 1], pa.int32()).view(pa.date32()),
    pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    pa.array([[1.5], None, []], pa.list_(pa.float16())),
    pa.nulls(2),
]


@pytest.mark.parametrize(
    "column", [*(INTEGERS.view(kind) for kind in KINDS), *ODD], ids=lambda column: str(column.type)
)
def test_a_value_of_any_kind_is_kept_bit_by_bit(
    tmp_path: Path, column: pa.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without pandas Arrow makes no Python value of a nanosecond.
    monkeypatch.setitem(sys.modules, "pandas", None)
    data = pa.table({"x": column})
    run(Plan.scan(table(data)).write(tmp_path / "out"))
    found = open_dataset(tmp_path / "out").to_table()
    assert found.schema == data.schema
    for mine, theirs in zip(column.buffers(), found["x"].combine_chunks().buffers(), strict=True):
        size = 0 if mine is None or theirs is None else min(mine.size, theirs.size)
        assert size == 0 or mine[:size].equals(theirs[:size])


def test_the_range_of_a_column_is_that_of_all_its_batches(tmp_path: Path) -> None:
    text, infinite = ["a" * 100] * 300 + ["b"] * 300, [float("-inf")] * 300 + [1.0] * 300
    data = pa.table({"x": infinite, "text": text, "n": [None] * 300 + [5] * 300})
    run(Plan.scan(table(data)).write(tmp_path / "out", batch_bytes=1))
    (file,) = open_dataset(tmp_path / "out").files
    found = {name: (each.min, each.max, each.nulls) for name, each in file.columns.items()}
    assert found == {"x": (None, 1.0, 0), "text": (None, "b", 0), "n": (5, 5, 300)}


@pytest.fixture
def few_files() -> Iterator[int]:
    """This process may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_task_writes_more_partitions_than_it_may_open_files(
    tmp_path: Path, few_files: int
) -> None:
    values = [number % (2 * few_files) for number in range(5 * few_files)]
    data = pa.table({"kind": values, "x": range(len(values))})
    run(Plan.scan(table(data)).write(tmp_path / "out", partition_by="kind"))
    dataset = open_dataset(tmp_path / "out")
    dataset.verify()
    assert len(dataset.files) == 2 * few_files
    assert dataset.where(kind="7").to_table()["x"].to_pylist() == [7, 519, 1031]


def test_partitions_larger_than_what_is_held_back_are_whole(tmp_path: Path) -> None:
    data = pa.table({"kind": [i % 3 for i in range(60_000)], "x": range(60_000)})
    plan = Plan.scan(table(data)).write(tmp_path / "out", partition_by="kind", batch_bytes=10_000)
    run(plan)
    dataset = open_dataset(tmp_path / "out")
    dataset.verify()
    for kind in range(3):
        found = dataset.where(kind=str(kind)).to_table()["x"].to_pylist()
        assert found == list(range(kind, 60_000, 3))


@pytest.mark.parametrize("column", [pa.array(["", "a/b", "ü", "..", "x" * 300, "%20", "a\nb"])])
def test_partitions_may_have_any_text_as_a_name(tmp_path: Path, column: pa.Array) -> None:
    data = pa.table({"kind": column, "x": range(len(column))})
    run(Plan.scan(table(data)).write(tmp_path / "out", partition_by="kind"))
    dataset = open_dataset(tmp_path / "out")
    for number, kind in enumerate(column.to_pylist()):
        assert dataset.where(kind=kind).to_table()["x"].to_pylist() == [number]
