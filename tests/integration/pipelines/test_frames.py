"""DataFrames of pandas at both ends of a pipeline and in the middle."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlsched.errors import SchemaMismatchError
from mlsched_pipelines import Contract, Plan, from_pandas, open_dataset, run

FRAME = pd.DataFrame(
    {"city": ["Rome", None, "Oslo"], "km": [1.5, float("nan"), 3.0], "n": [1, 2, 3]},
    index=[10, 20, 30],
)


def test_a_frame_goes_in_and_comes_out(tmp_path: Path) -> None:
    run(Plan.scan(from_pandas(FRAME)).write(tmp_path / "out"))
    dataset = open_dataset(tmp_path / "out")
    assert dataset.schema.names == ["city", "km", "n"]
    assert dataset.to_table()["km"].to_pylist() == [1.5, None, 3.0]
    found = dataset.to_pandas()
    pd.testing.assert_frame_equal(found, FRAME.reset_index(drop=True), check_dtype=False)
    assert dataset.to_pandas(["n"])["n"].tolist() == [1, 2, 3]


def test_a_frame_is_read_by_its_contract(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int16()), ("city", pa.string())])
    plan = Plan.scan(from_pandas(FRAME, schema))
    assert plan.schema == schema
    with pytest.raises(SchemaMismatchError, match="does not fit"):
        from_pandas(FRAME, pa.schema([("city", pa.int64())]))
    with pytest.raises(SchemaMismatchError, match="town"):
        from_pandas(FRAME, Contract(pa.schema([("town", pa.string())])))


def double(frame: pd.DataFrame) -> pd.DataFrame:
    """A function as people write them for pandas."""
    frame = frame[frame["km"] > 1]
    return frame.assign(twice=frame["km"] * 2)[["city", "twice"]]


def test_a_function_of_frames_is_a_step_like_any_other(tmp_path: Path) -> None:
    out = pa.schema([("city", pa.string()), ("twice", pa.float64())])
    plan = (
        Plan.scan(from_pandas(FRAME))
        .map_batches(double, schema=out, format="pandas", changes_rows=True)
        .filter(pc.field("twice") > 3)
    )
    report = run(plan.write(tmp_path / "out"))
    assert open_dataset(tmp_path / "out").to_table().to_pylist() == [{"city": "Oslo", "twice": 6.0}]
    assert (report.counts.rows_in, report.counts.filtered) == (3, 2)


def test_a_frame_that_lacks_a_promised_column_is_an_error(tmp_path: Path) -> None:
    out = pa.schema([("town", pa.string())])
    plan = Plan.scan(from_pandas(FRAME)).map_batches(
        lambda frame: frame, schema=out, format="pandas"
    )
    with pytest.raises(SchemaMismatchError, match="town"):
        run(plan.write(tmp_path / "out"))


def test_a_dataset_is_brought_to_another_folder_whole(tmp_path: Path) -> None:
    plan = Plan.scan(from_pandas(FRAME, split_rows=1)).write(tmp_path / "out")
    run(plan, interval="one")
    run(plan, interval="two")
    dataset = open_dataset(tmp_path / "out")
    copy = dataset.fetch(tmp_path / "copy")
    copy.verify()
    assert (copy.version, copy.digest) == (2, dataset.digest)
    assert copy.to_table().equals(dataset.to_table())
    broken = tmp_path / "copy" / copy.files[1].path
    broken.write_bytes(b"half a shard")
    dataset.fetch(tmp_path / "copy").verify()
