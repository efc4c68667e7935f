"""Row groups of Parquet files that are not read, since no row of theirs can pass a filter.

Arrow compares the condition with the minimum and maximum of each row group. NaN is in no such
statistics, so a condition over floats is used only if it is made of comparisons that NaN fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from mlsched.errors import SchemaMismatchError
from mlsched_pipelines.expressions import evaluate
from mlsched_pipelines.inputs import open_input
from mlsched_pipelines.splits import Pruned, Split

_COMPARISON = r"\(*\w+ (?:<|>|<=|>=|==) -?[\d.e+-]+\)*"
_NAN_FAILS = re.compile(rf"{_COMPARISON}(?: (?:and|or) {_COMPARISON})*")


def row_group_sizes(metadata: pq.FileMetaData, columns: Sequence[str]) -> list[int]:
    """Bytes of some columns in each row group, before compression."""
    wanted = set(columns)
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    # A dot is also a part of names, so that every beginning of a path may be the column.
    read = [at for at, path in enumerate(paths) if not wanted.isdisjoint(_beginnings(path))]
    return [
        sum(metadata.row_group(group).column(at).total_uncompressed_size for at in read)
        for group in range(metadata.num_row_groups)
    ]


def _beginnings(path: str) -> Iterable[str]:
    return accumulate(path.split("."), "{}.{}".format)


def prune_row_groups(
    schema: pa.Schema, splits: Sequence[Split], condition: pc.Expression
) -> tuple[tuple[Split, ...], Pruned]:
    """The splits of Parquet files without the row groups that cannot pass a condition.

    Cost: the footer of each file is read once more.
    """
    if not _is_safe(schema, condition):
        return tuple(splits), Pruned()
    kept: list[Split] = []
    total = Pruned()
    for path, of_file in groupby(splits, key=lambda split: split.pin.path):
        fragment = pads.ParquetFileFormat().make_fragment(open_input(path))
        fragments = fragment.split_by_row_group(condition, schema=schema)
        passing = {group.id for part in fragments for group in part.row_groups}
        sizes = row_group_sizes(fragment.metadata, schema.names)
        rows = [group.num_rows for group in fragment.row_groups]
        for split in of_file:
            parts = _parts(split, passing, sizes)
            kept += parts
            total += _lost(split, parts, rows)
    return tuple(kept), total


def _parts(split: Split, passing: set[int], sizes: Sequence[int]) -> list[Split]:
    """Runs of neighbouring row groups of a split that may pass."""
    numbers = [number for number in range(split.start, split.stop) if number in passing]
    if len(numbers) == split.stop - split.start:
        return [split]
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ranges = [[number for _, number in run] for _, run in runs]
    return [
        msgspec.structs.replace(
            split,
            start=run[0],
            stop=run[-1] + 1,
            size_bytes=sum(sizes[number] for number in run),
        )
        for run in ranges
    ]


def _lost(split: Split, parts: list[Split], rows: Sequence[int]) -> Pruned:
    kept = {number for part in parts for number in range(part.start, part.stop)}
    lost = sum(rows[at] for at in range(split.start, split.stop) if at not in kept)
    return Pruned(int(not parts), lost, split.size_bytes - sum(part.size_bytes for part in parts))


def _is_safe(schema: pa.Schema, condition: pc.Expression) -> bool:
    """Whether statistics tell the truth about the rows that pass."""
    plain = pa.schema([field for field in schema if not _may_hold_nan(field.type)])
    try:
        evaluate(pa.RecordBatch.from_pylist([], schema=plain), (("condition", condition),))
    except SchemaMismatchError:
        return _NAN_FAILS.fullmatch(str(condition)) is not None
    return True


def _may_hold_nan(kind: pa.DataType) -> bool:
    """Whether values are floats, or may have some inside."""
    is_plain = pa.types.is_primitive(kind) or pa.types.is_decimal(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_binary(kind)
    is_large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    return pa.types.is_floating(kind) or not (is_plain or is_text or is_large)
