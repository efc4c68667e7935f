"""Parquet files whose statistics or names are odd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mlsched.errors import PipelineError
from mlsched_pipelines import Plan, open_dataset, parquet, run


@pytest.mark.parametrize("kind", ["struct", "dictionary", "plain"])
def test_nan_is_in_no_statistics_wherever_a_float_lies(tmp_path: Path, kind: str) -> None:
    values = pa.array([1.0, float("nan"), 3.0])
    field = pc.field("x", "y") if kind == "struct" else pc.field("x")
    columns = {
        "struct": pa.StructArray.from_arrays([values], ["y"]),
        "dictionary": values.dictionary_encode(),
        "plain": values,
    }
    data = pa.table({"x": columns[kind], "n": [1, 2, 3]})
    pq.write_table(data, tmp_path / "in.parquet")
    scan = Plan.scan(parquet(tmp_path / "in.parquet"))
    plan = scan.filter(~(field.cast(pa.float64()) < 5) | ~(field < 5)).project(["n"])
    run(plan.write(tmp_path / "out"))
    assert open_dataset(tmp_path / "out").to_table()["n"].to_pylist() == [2]


def test_columns_with_dots_in_their_names_have_a_size(tmp_path: Path) -> None:
    data = pa.table({"user.age": range(5000), "user": range(5000)})
    pq.write_table(data, tmp_path / "in.parquet", row_group_size=1000)
    ages = pa.schema([("user.age", pa.int64())])
    plan = Plan.scan(parquet(tmp_path / "in.parquet", ages, split_bytes=1000))
    assert [split.stop for split in plan.splits] == [1, 2, 3, 4, 5]
    assert all(split.size_bytes > 1000 for split in plan.splits)
    assert run(plan.write(tmp_path / "out")).counts.rows_out == 5000


@pytest.mark.parametrize("is_replaced", [False, True])
def test_damage_is_told_with_the_file_or_that_it_changed(tmp_path: Path, is_replaced: bool) -> None:
    path = tmp_path / "in.parquet"
    chance = np.random.default_rng(1)
    pq.write_table(pa.table({"x": chance.normal(size=50_000)}), path, compression="zstd")
    whole = path.read_bytes()
    broken = whole[:60] + chance.bytes(300) + whole[360:]
    if not is_replaced:
        path.write_bytes(broken)
    scan = Plan.scan(parquet(path))
    if is_replaced:
        path.write_bytes(broken)
    message = "changed after the plan" if is_replaced else rf"{path} is damaged: "
    with pytest.raises(PipelineError, match=message):
        run(scan.write(tmp_path / "out"))
