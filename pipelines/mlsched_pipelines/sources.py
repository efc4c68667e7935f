"""Sources: where a plan reads from. Each cuts its input into splits and reads one split as blocks.

A source is a frozen value that travels with the plan. `Source` is the whole contract, for sources
of your own too. Fields that the contract of a source does not name are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from msgspec import Struct

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines.csvs import CsvSource
from mlsched_pipelines.frames import import_pandas
from mlsched_pipelines.inputs import Paths, expand, open_input
from mlsched_pipelines.pruning import prune_row_groups, row_group_sizes
from mlsched_pipelines.rows import Block, RowLedger
from mlsched_pipelines.schema import Contract, as_contract, check_fields, conform, plain_schema
from mlsched_pipelines.splits import Fingerprint, Pin, Pruned, Split, check_pin, pin_file

if TYPE_CHECKING:
    import pandas as pd

SPLIT_BYTES = 32 << 20
"""Input of one task: a task's fixed cost (about 5 ms) vanishes, and its rows fit into memory."""

BATCH_ROWS = 128 << 10

T = TypeVar("T")


@runtime_checkable
class Source(Protocol):
    """Where rows come from. All methods depend on the input and the options alone."""

    @property
    def contract(self) -> Contract:
        """The fields that are read, and what their values keep."""

    def identity(self) -> bytes:
        """Bytes of every option that changes what is read; splits have their own identity."""

    def splits(self) -> tuple[Split, ...]:
        """Cut the input; reads headers or footers and checks them against the contract."""

    def read(self, split: Split, ledger: RowLedger) -> Iterator[Block]:
        """The rows of one split in order; counts them, and rejects what cannot be read as a row."""

    def prune(
        self, splits: tuple[Split, ...], condition: pc.Expression
    ) -> tuple[tuple[Split, ...], Pruned]:
        """The splits without what cannot pass the condition, and what was left out."""

    def first_row(self, split: Split) -> int:
        """Rows of the file before the split, for messages."""


class ParquetSource(Struct, frozen=True):
    """Parquet files; one split for each run of row groups. Make it with `parquet`."""

    paths: tuple[str, ...]
    contract: Contract
    split_bytes: int = SPLIT_BYTES
    fingerprint: Fingerprint = "content"

    def identity(self) -> bytes:
        """See `Source.identity`."""
        return b"parquet:" + self.contract.identity()

    def splits(self) -> tuple[Split, ...]:
        """Runs of row groups of at most ``split_bytes`` each, by the sizes in the footers."""
        found: list[Split] = []
        for path in self.paths:
            pin = pin_file(path, self.fingerprint)
            with _opened(path, pq.ParquetFile) as file:
                check_fields(self.contract, file.schema_arrow, path)
                sizes = row_group_sizes(file.metadata, self.contract.schema.names)
            found.extend(_group(pin, sizes, self.split_bytes, len(found)))
        return tuple(found)

    def read(self, split: Split, ledger: RowLedger) -> Iterator[Block]:
        """See `Source.read`."""
        with _reading(split.pin), _opened(split.pin.path, pq.ParquetFile) as file:
            groups = list(range(split.start, split.stop))
            batches = file.iter_batches(
                BATCH_ROWS, row_groups=groups, columns=self.contract.schema.names, use_threads=False
            )
            yield from _blocks(self.contract, batches, split, ledger)

    def prune(
        self, splits: tuple[Split, ...], condition: pc.Expression
    ) -> tuple[tuple[Split, ...], Pruned]:
        """Without row groups whose statistics say that no row can pass; footers are read again."""
        return prune_row_groups(self.contract.schema, splits, condition)

    def first_row(self, split: Split) -> int:
        """Rows in the row groups before the split."""
        with _opened(split.pin.path, pq.ParquetFile) as file:
            return sum(file.metadata.row_group(group).num_rows for group in range(split.start))


class ArrowSource(Struct, frozen=True):
    """Arrow IPC files; one split for each run of record batches. Make it with `arrow`."""

    paths: tuple[str, ...]
    contract: Contract
    split_bytes: int = SPLIT_BYTES
    fingerprint: Fingerprint = "content"

    def identity(self) -> bytes:
        """See `Source.identity`."""
        return b"arrow:" + self.contract.identity()

    def splits(self) -> tuple[Split, ...]:
        """Runs of record batches of about ``split_bytes``, as if all of a file were equal."""
        found: list[Split] = []
        for path in self.paths:
            pin = pin_file(path, self.fingerprint)
            with _opened(path, pa.ipc.open_file) as file:
                check_fields(self.contract, file.schema, path)
                batches = file.num_record_batches
            sizes = [pin.size_bytes // max(1, batches)] * batches
            found.extend(_group(pin, sizes, self.split_bytes, len(found)))
        return tuple(found)

    def read(self, split: Split, ledger: RowLedger) -> Iterator[Block]:
        """See `Source.read`."""
        with _reading(split.pin), _opened(split.pin.path, pa.ipc.open_file) as file:
            names = self.contract.schema.names
            batches = (file.get_batch(at).select(names) for at in range(split.start, split.stop))
            yield from _blocks(self.contract, batches, split, ledger)

    def prune(
        self, splits: tuple[Split, ...], condition: pc.Expression
    ) -> tuple[tuple[Split, ...], Pruned]:
        """Nothing: there are no statistics."""
        return splits, Pruned()

    def first_row(self, split: Split) -> int:
        """Rows in the batches before the split."""
        with _opened(split.pin.path, pa.ipc.open_file) as file:
            return sum(file.get_batch(at).num_rows for at in range(split.start))


class TableSource(Struct, frozen=True):
    """A table in memory, which travels inside the plan. Make it with `table`."""

    data: pa.Table
    contract: Contract
    split_rows: int = 1 << 20

    def identity(self) -> bytes:
        """See `Source.identity`."""
        return b"table:" + self.contract.identity()

    def splits(self) -> tuple[Split, ...]:
        """Runs of ``split_rows`` rows."""
        check_fields(self.contract, self.data.schema, "the table")
        pin = Pin("the table", self.data.nbytes, 0, _digest_table(self.data))
        starts = range(0, self.data.num_rows, self.split_rows)
        stops = (min(start + self.split_rows, self.data.num_rows) for start in starts)
        row_bytes = self.data.nbytes / max(1, self.data.num_rows)
        return tuple(
            Split(i, pin, start, stop, int(row_bytes * (stop - start)))
            for i, (start, stop) in enumerate(zip(starts, stops, strict=True))
        )

    def read(self, split: Split, ledger: RowLedger) -> Iterator[Block]:
        """See `Source.read`."""
        part = self.data.select(self.contract.schema.names).slice(
            split.start, split.stop - split.start
        )
        yield from _blocks(self.contract, part.to_batches(max_chunksize=BATCH_ROWS), split, ledger)

    def prune(
        self, splits: tuple[Split, ...], condition: pc.Expression
    ) -> tuple[tuple[Split, ...], Pruned]:
        """Nothing: there are no statistics."""
        return splits, Pruned()

    def first_row(self, split: Split) -> int:
        """Rows of the table before the split."""
        return split.start


def csv(
    paths: Paths,
    schema: pa.Schema | Contract,
    *,
    delimiter: str = ",",
    null_values: Sequence[str] = ("",),
    split_bytes: int = SPLIT_BYTES,
    fingerprint: Fingerprint = "content",
) -> CsvSource:
    """CSV files with a header line, read by the schema (nothing is guessed from the data).

    Args:
        paths: A path, a glob pattern, or several; a pattern's files are read in sorted order.
        schema: The fields to read, by header name, with their types and checks.
        delimiter: One character.
        null_values: Cells that mean null in fields that are not text; text keeps them as they are.
        split_bytes: Bytes of one task. Cells must not contain line ends, unless this is 0: then a
            file is one split and quoted cells may.
        fingerprint: How a file is recognised: see `mlsched_pipelines.splits.Fingerprint`.
    """
    return CsvSource(
        expand(paths), as_contract(schema), delimiter, tuple(null_values), split_bytes, fingerprint
    )


def parquet(
    paths: Paths,
    schema: pa.Schema | Contract | None = None,
    *,
    split_bytes: int = SPLIT_BYTES,
    fingerprint: Fingerprint = "content",
) -> ParquetSource:
    """Parquet files; without a schema that of the first file is the contract for all."""
    files = expand(paths)
    if schema is None:
        with _opened(files[0], pq.ParquetFile) as file:
            schema = plain_schema(file.schema_arrow)
    return ParquetSource(files, as_contract(schema), split_bytes, fingerprint)


def arrow(
    paths: Paths,
    schema: pa.Schema | Contract | None = None,
    *,
    split_bytes: int = SPLIT_BYTES,
    fingerprint: Fingerprint = "content",
) -> ArrowSource:
    """Arrow IPC files (Feather V2); without a schema the first file's is the contract for all."""
    files = expand(paths)
    if schema is None:
        with _opened(files[0], pa.ipc.open_file) as file:
            schema = plain_schema(file.schema)
    return ArrowSource(files, as_contract(schema), split_bytes, fingerprint)


def table(
    data: pa.Table, schema: pa.Schema | Contract | None = None, *, split_rows: int = 1 << 20
) -> TableSource:
    """A table in memory; cost: it is hashed once when the plan is made."""
    if split_rows < 1:
        raise PipelineError(f"split_rows: expected 1 or more, found {split_rows}.")
    return TableSource(
        data,
        as_contract(schema if schema is not None else plain_schema(data.schema)),
        split_rows,
    )


def _opened(path: str, opener: Callable[[pa.NativeFile], T]) -> T:
    file = open_input(path)
    try:
        return opener(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"The input file {path} cannot be read: {error}.") from error


@contextmanager
def _reading(pin: Pin) -> Iterator[None]:
    """A file that is read is the one that was planned, before and after.

    Raises:
        PipelineError: it changed, or it is damaged.
    """
    check_pin(pin)
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        check_pin(pin)
        raise PipelineError(f"The input file {pin.path} is damaged: {error}.") from error
    check_pin(pin)


def _group(pin: Pin, sizes: list[int], split_bytes: int, first_index: int) -> list[Split]:
    """Neighbouring pieces together until they reach ``split_bytes``; a larger piece stays alone."""
    cuts, held = [0], 0
    for at, size in enumerate(sizes):
        if held and held + size > split_bytes:
            cuts.append(at)
            held = 0
        held += size
    if len(sizes) > 0:
        cuts.append(len(sizes))
    ranges = pairwise(cuts)
    return [
        Split(first_index + i, pin, start, stop, sum(sizes[start:stop]))
        for i, (start, stop) in enumerate(ranges)
    ]


def _blocks(
    contract: Contract,
    batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch],
    split: Split,
    ledger: RowLedger,
) -> Iterator[Block]:
    start = 0
    for batch in batches:
        ledger.rows_in += batch.num_rows
        rows = np.arange(start, start + batch.num_rows, dtype=np.int64)
        start += batch.num_rows
        yield Block(conform(contract, batch, split.pin.path), rows)


def _digest_table(data: pa.Table) -> str:
    digest = blake2b(digest_size=16)
    digest.update(data.schema.serialize())
    for batch in data.combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def from_pandas(
    frame: pd.DataFrame, schema: pa.Schema | Contract | None = None, *, split_rows: int = 1 << 20
) -> TableSource:
    """A DataFrame as a source; its index is left out, and NaN of pandas becomes null.

    Args:
        frame: Copied into Arrow now.
        schema: The fields to take, with their types; by default all, with the types that they have.
        split_rows: Rows of one task.

    Raises:
        ConfigError: pandas is not installed.
        SchemaMismatchError: a column is missing, or its values are not of its type.
    """
    import_pandas()
    wanted = as_contract(schema).schema if schema is not None else None
    try:
        data = pa.Table.from_pandas(frame, wanted, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
        raise SchemaMismatchError(f"The DataFrame does not fit: {error}.") from error
    return table(data.replace_schema_metadata(None), schema, split_rows=split_rows)


def describe_source(source: Source, splits: Sequence[Split]) -> str:
    """A source in a few words: its kind and where its files lie."""
    kind = type(source).__name__.removesuffix("Source").lower()
    paths = list(dict.fromkeys(split.pin.path for split in splits))
    if not paths:
        return f"{kind}: nothing"
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{kind}: {paths[0]}{more}"
