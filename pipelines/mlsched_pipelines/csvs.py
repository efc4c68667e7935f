"""CSV as a source: cut at line ends, read by schema, and bad cells found one by one.

Cells are read as bytes and cast to their types by Arrow's cast kernels. When a column does not
cast, halving finds the rows that are to blame; the others go on.
"""

from __future__ import annotations

import csv as text_csv
from collections.abc import Iterator
from io import RawIOBase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from pyarrow import csv as pa_csv

from mlsched.errors import PipelineError
from mlsched_pipelines.inputs import open_binary
from mlsched_pipelines.rows import Block, RowLedger, Rows
from mlsched_pipelines.schema import Contract, shorten, unknown_field
from mlsched_pipelines.splits import (
    Fingerprint,
    Pruned,
    Split,
    check_pin,
    count_blank_lines,
    count_lines,
    cut_lines,
    pin_file,
)

BLOCK_BYTES = 1 << 20
HEADER_BYTES_MAX = 1 << 20


class CsvSource(Struct, frozen=True):
    """CSV files with a header line. Make it with `mlsched_pipelines.sources.csv`."""

    paths: tuple[str, ...]
    contract: Contract
    delimiter: str
    null_values: tuple[str, ...]
    split_bytes: int
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.split_bytes < 0:
            raise PipelineError(
                "csv: expected a delimiter of one character and split_bytes of 0 or more, found "
                f"{self.delimiter!r} and {self.split_bytes}."
            )
        for field in self.contract.schema:
            try:
                pa.array([], pa.string()).cast(field.type)
            except pa.ArrowNotImplementedError:
                raise PipelineError(
                    f"CSV field {field.name!r}: text cannot be read as {field.type}.",
                    "Read it as string and convert it in map_batches.",
                ) from None

    def identity(self) -> bytes:
        """See `mlsched_pipelines.sources.Source.identity`."""
        options = (self.delimiter, self.null_values, self.split_bytes == 0)
        return b"csv:" + repr(options).encode() + self.contract.identity()

    def splits(self) -> tuple[Split, ...]:
        """Byte ranges that end at line ends; the header is checked and belongs to none."""
        found: list[Split] = []
        for path in self.paths:
            pin = pin_file(path, self.fingerprint)
            names, first = _read_header(path, self.delimiter)
            for name in self.contract.schema.names:
                if name not in names:
                    raise unknown_field(name, names, f"{path}: the contract asks for")
            for start, stop in cut_lines(path, first, self.split_bytes or pin.size_bytes or 1):
                found.append(Split(len(found), pin, start, stop, stop - start))
        return tuple(found)

    def read(self, split: Split, ledger: RowLedger) -> Iterator[Block]:
        """See `mlsched_pipelines.sources.Source.read`; blank lines are no rows.

        Raises:
            PipelineError: a cell holds line ends, so that it may have been cut, or swallowed rows.
        """
        check_pin(split.pin)
        names, _ = _read_header(split.pin.path, self.delimiter)
        invalid: list[pa_csv.InvalidRow] = []

        def skip(row: pa_csv.InvalidRow) -> str:
            invalid.append(row)
            return "skip"

        seen, before, is_open = 0, ledger.rows_in, False
        with open_binary(split.pin.path) as file:
            part = _FileRange(file, split)
            for batch in self._batches(part, names, skip):
                bad = {row.number - 1 for row in invalid}
                rows = _number_rows(seen, batch.num_rows, bad)
                seen = int(rows[-1]) + 1 if len(rows) else seen
                ledger.rows_in += batch.num_rows
                last = (cell for cells in batch.columns for cell in cells[-1:].to_pylist())
                is_open = any(cell.endswith(b"\n") for cell in last)
                yield self._typed(Block(batch, rows), ledger)
            if self.split_bytes:
                _check_lines(split, part.lines, ledger.rows_in - before + len(invalid), is_open)
        for row in invalid:
            ledger.rows_in += 1
            expected = f"{row.expected_columns} cells"
            ledger.reject(
                row.number - 1, "", expected, f"{row.actual_columns}", shorten(row.text, 4000)
            )
        check_pin(split.pin)

    def prune(
        self, splits: tuple[Split, ...], condition: pc.Expression
    ) -> tuple[tuple[Split, ...], Pruned]:
        """Nothing: text has no statistics."""
        return splits, Pruned()

    def first_row(self, split: Split) -> int:
        """Lines between the header and the split."""
        _, first = _read_header(split.pin.path, self.delimiter)
        return count_lines(split.pin.path, first, split.start)

    def _batches(self, data: _FileRange, names: list[str], skip: Any) -> Iterator[pa.RecordBatch]:
        fields = self.contract.schema.names
        try:
            yield from pa_csv.open_csv(
                pa.PythonFile(data, "r"),
                read_options=pa_csv.ReadOptions(
                    column_names=names, use_threads=False, block_size=BLOCK_BYTES
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self.delimiter,
                    newlines_in_values=self.split_bytes == 0,
                    invalid_row_handler=skip,
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.binary()),
                    include_columns=fields,
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "straddling" in str(error):
                raise PipelineError(
                    f"{data.path}: a row is longer than {BLOCK_BYTES} bytes, or a quote is open."
                ) from error
            if "Empty CSV file" not in str(error):
                raise PipelineError(f"{data.path}: not readable as CSV: {error}.") from error

    def _typed(self, block: Block, ledger: RowLedger) -> Block:
        """Cells as the contract's types; rows with a cell that is none of its type are rejected."""
        columns, bad = [], np.zeros(len(block.rows), np.bool_)
        for field, cells in zip(self.contract.schema, block.batch.columns, strict=True):
            column, failed = _cast_column(cells, field.type, self.null_values)
            for at in failed:
                if not bad[at]:
                    found = _show(cells[at].as_py())
                    raw = _show(
                        self.delimiter.encode().join(c[at].as_py() for c in block.batch.columns)
                    )
                    ledger.reject(int(block.rows[at]), field.name, str(field.type), found, raw)
                    bad[at] = True
            columns.append(column)
        batch = pa.RecordBatch.from_arrays(columns, schema=self.contract.schema)
        if not bad.any():
            return Block(batch, block.rows)
        return Block(batch.filter(pa.array(~bad)), block.rows[~bad])


class _FileRange(RawIOBase):
    """A byte range of an open file, as a file."""

    def __init__(self, file: Any, split: Split) -> None:
        self.path = split.pin.path
        self._file, self._left = file, split.stop - split.start
        self._ends, self._last = 0, b""
        file.seek(split.start)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data: bytes = self._file.read(wanted)
        self._left -= len(data)
        self._ends += data.count(b"\n")
        self._last = data[-1:] or self._last
        return data

    @property
    def lines(self) -> int:
        """Lines read so far, the last one without its end too."""
        return self._ends + (self._last not in (b"", b"\n"))


def _read_header(path: str, delimiter: str) -> tuple[list[str], int]:
    """Names of the header line, and where the first row begins."""
    with open_binary(path) as file:
        line = file.readline(HEADER_BYTES_MAX)
        first = file.tell()
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: the header line is not UTF-8.") from None
    try:
        names = next(text_csv.reader([text.rstrip("\r\n")], delimiter=delimiter), [])
    except text_csv.Error:
        raise PipelineError(
            f"{path}: expected lines that end in \\n or \\r\\n, found a lone \\r in the header."
        ) from None
    if not names:
        raise PipelineError(f"{path}: expected a header line with field names, found none.")
    return names, first


def _check_lines(split: Split, lines: int, rows: int, is_open: bool) -> None:
    """Every line is a row, or blank: else a quoted cell holds line ends, here or at the cut."""
    path, start, stop = split.pin.path, split.start, split.stop
    if is_open or (lines > rows and lines - count_blank_lines(path, start, stop) > rows):
        raise PipelineError(
            f"{path}: between bytes {start} and {stop} a cell holds a line end or an open quote.",
            "Correct the file; csv(..., split_bytes=0) reads each file as one split.",
        )


def _number_rows(first: int, count: int, skipped: set[int]) -> Rows:
    """The next ``count`` row numbers from ``first`` that were not skipped."""
    if not skipped:
        return np.arange(first, first + count, dtype=np.int64)
    numbers = np.arange(first, first + count + len(skipped), dtype=np.int64)
    kept = numbers[~np.isin(numbers, np.fromiter(skipped, np.int64))]
    return kept[:count]


def _cast_column(
    cells: pa.Array, wanted: pa.DataType, nulls: tuple[str, ...]
) -> tuple[pa.Array, list[int]]:
    """The cells as a type, and the rows that are none of it (null there)."""
    text, failed = _cast_halving(cells, pa.string(), 0)
    if wanted == pa.string() or pa.types.is_large_string(wanted) or pa.types.is_binary(wanted):
        return text.cast(wanted), failed
    if nulls:
        missing = pc.is_in(text, value_set=pa.array(nulls, pa.string()))
        text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    column, bad = _cast_halving(text, wanted, 0)
    return column, sorted({*failed, *bad})


def _cast_halving(cells: pa.Array, wanted: pa.DataType, first: int) -> tuple[pa.Array, list[int]]:
    """Cast all at once, and by halves where that fails: O(bad · log n) casts."""
    try:
        return cells.cast(wanted), []
    except pa.ArrowInvalid:
        if len(cells) == 1:
            return pa.nulls(1, wanted), [first]
    half = len(cells) // 2
    left, bad_left = _cast_halving(cells.slice(0, half), wanted, first)
    right, bad_right = _cast_halving(cells.slice(half), wanted, first + half)
    return pa.concat_arrays([left, right]), bad_left + bad_right


def _show(cell: bytes) -> str:
    return shorten(cell.decode("utf-8", "backslashreplace"), 4000)
