"""CSV files that are not as they should be, or only look odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlsched.errors import PipelineError
from mlsched_pipelines import Plan, csv, open_dataset, run

TEXTS = pa.schema([("a", pa.int64()), ("b", pa.string())])


def rows_of(path: Path, data: bytes, **options: Any) -> list[Any]:
    path.write_bytes(data)
    run(Plan.scan(csv(path, TEXTS, **options)).write(path.with_suffix(".out"), rejects_max=9))
    rows: list[Any] = open_dataset(path.with_suffix(".out")).to_table().to_pylist()
    return rows


@pytest.mark.parametrize("split_bytes", [3, 12, 1 << 20])
@pytest.mark.parametrize(
    "rows",
    [
        b'1,"x\n7,y"\n2,z\n',
        b'1,"x\r\n7,y"\r\n2,z\r\n',
        b'1,"x\n2,y\n3,z\n4,"w\n5,v\n',
        b'1,x\n\n\n2,"y\n3,z\n',
        b'1,x\n2,"y\n3,z',
        b'1,"\n"\n',
    ],
)
def test_a_cell_that_swallows_lines_or_is_cut_stops_the_run(
    tmp_path: Path, rows: bytes, split_bytes: int
) -> None:
    with pytest.raises(PipelineError, match="a line end or an open quote") as caught:
        rows_of(tmp_path / "in.csv", b"a,b\n" + rows, split_bytes=split_bytes)
    assert "split_bytes=0" in caught.value.hint
    assert not (tmp_path / "in.out" / "manifest").exists()


@pytest.mark.parametrize("split_bytes", [1, 6, 1 << 20])
@pytest.mark.parametrize(
    "rows",
    [b"1,x\n2,y\n", b"1,x\n2,y", b"1,x\r\n2,y\r\n", b"\n\n1,x\n\n\r\n\n2,y\n\n", b'1,"x"\n2,"y"\n'],
)
def test_blank_lines_and_line_ends_of_any_kind_are_no_rows(
    tmp_path: Path, rows: bytes, split_bytes: int
) -> None:
    found = rows_of(tmp_path / "in.csv", b"\xef\xbb\xbfa,b\n" + rows, split_bytes=split_bytes)
    assert found == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    found = rows_of(tmp_path / "bad.csv", b"a,b\n3\n" + rows + b"\n4\n", split_bytes=split_bytes)
    assert [row["a"] for row in found] == [1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found none"),
        (b"a,b\r1,x\r2,y\r", "lone"),
        (b"\x1f\x8b\x08\x00a,b\n1,x\n", "UTF-8"),
        (b"a,b\n1," + b"x" * (3 << 20) + b"\n", "a row is longer than"),
    ],
)
def test_files_that_are_no_csv(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        rows_of(tmp_path / "in.csv", data)


@pytest.mark.parametrize("options", [{"delimiter": ";;"}, {"split_bytes": -1}])
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="split_bytes of 0 or more"):
        rows_of(tmp_path / "in.csv", b"a,b\n1,x\n", **options)
