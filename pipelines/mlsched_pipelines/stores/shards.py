"""Shards: Arrow IPC files that a feed can map into memory and index without parsing rows.

Record batches are uncompressed and equally long but for the last. Each body begins at a multiple of
64 bytes: Arrow's writer pads to 8, so a custom metadata entry of the right length fills the rest.
With batches of a multiple of 512 rows every fixed-width column before the first variable-length one
is then 64-byte aligned as well. The file's name carries its checksum, so a file is never
overwritten with other content.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from io import RawIOBase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from mlsched.errors import PipelineError
from mlsched_pipelines.manifests import ColumnStats, FileRecord, Plain
from mlsched_pipelines.stores import Store

ALIGNMENT_BYTES = 64
BATCH_ROWS_MIN, BATCH_ROWS_MAX = 256, 4096
CHECKSUM_BYTES = 32
READ_BYTES = 1 << 20
HELD_BYTES_MAX = 64 << 10
_TEXT_MAX = 64


def rows_per_batch(size_bytes: int, rows: int, batch_bytes: int) -> int:
    """Rows of a batch of about ``batch_bytes``, by the size of some rows: 256, 512, 1024..4096."""
    fit = batch_bytes * rows // max(1, size_bytes)
    if fit < 2 * BATCH_ROWS_MIN:
        return BATCH_ROWS_MIN
    return min(fit // 512 * 512, BATCH_ROWS_MAX)


class ShardWriter:
    """Write one shard; memory: at most two batches.

    Args:
        store: Where the dataset lives.
        folder: Where the file goes, within the store.
        stem: First part of the file's name.
        schema: Of every batch.
        batch_bytes: Aim for a record batch.
        partition: Column and value that all rows share.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        stem: str,
        schema: pa.Schema,
        *,
        batch_bytes: int,
        partition: dict[str, str] | None = None,
    ) -> None:
        self.size_bytes = 0
        self._store, self._folder, self._stem, self._schema = store, folder, stem, schema
        self._batch_bytes, self._partition = batch_bytes, partition or {}
        self._temporary = store.scratch(folder)
        self._file = _HashedFile(self._temporary)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), schema)
        self._header_bytes, self._pads = _measure_pads(schema)
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = self._rows = self._batch_rows = 0
        self._stats: dict[str, ColumnStats] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; they are written once a batch is full."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        enough = self._waiting_rows >= BATCH_ROWS_MAX or self._waiting_bytes >= self._batch_bytes
        if not self._batch_rows and enough and self._waiting_rows >= BATCH_ROWS_MIN:
            self._batch_rows = rows_per_batch(
                self._waiting_bytes, self._waiting_rows, self._batch_bytes
            )
        if self._batch_rows:
            self._flush(self._batch_rows)

    def close(self) -> FileRecord:
        """Write the rest and hand the file to the store, under its name."""
        if self._waiting_rows and not self._batch_rows:
            self._batch_rows = rows_per_batch(
                self._waiting_bytes, self._waiting_rows, self._batch_bytes
            )
        if self._waiting_rows:
            self._flush(self._batch_rows)
            self._flush(1)
        self._writer.close()
        self._file.finish()
        checksum = self._file.digest.hexdigest()
        where = f"{self._folder}/{self._stem}-{checksum[:16]}.arrow"
        self._store.put_file(self._temporary, where)
        size, rows = self._file.written, self._rows
        return FileRecord(
            where,
            size,
            rows,
            self._batch_rows or 1,
            checksum,
            self._partition,
            {
                name: ColumnStats(_plain(found.min), _plain(found.max), found.nulls)
                for name, found in self._stats.items()
            },
        )

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._temporary.unlink(missing_ok=True)

    def _flush(self, rows_min: int) -> None:
        if self._waiting_rows < rows_min:
            return
        table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
        whole = table.to_batches()[0]
        at = 0
        while whole.num_rows - at >= rows_min and at < whole.num_rows:
            part = whole.slice(at, self._batch_rows)
            self._write_batch(part)
            at += part.num_rows
        rest = whole.slice(at)
        self._waiting = [rest] if rest.num_rows else []
        self._waiting_rows, self._waiting_bytes = rest.num_rows, rest.nbytes

    def _write_batch(self, batch: pa.RecordBatch) -> None:
        start = self._file.written or self._header_bytes
        pad = self._pads[start % ALIGNMENT_BYTES]
        self._writer.write_batch(batch, custom_metadata={"pad": " " * pad})
        self._rows += batch.num_rows
        self.size_bytes = self._file.written
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._stats[name] = _merge_stats(self._stats.get(name), column)


class _HashedFile(RawIOBase):
    """A file that hashes what is written to it.

    It is open only while bytes go to the disk: a task has a shard for each value of a partition
    column, and a process may have no more than a thousand or so files open.
    """

    def __init__(self, path: Path) -> None:
        self.digest = blake2b(digest_size=CHECKSUM_BYTES)
        self.written = 0
        self._path, self._held = path, bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        self.written += len(view)
        self._held += view
        if len(self._held) >= HELD_BYTES_MAX:
            self.finish()
        return len(view)

    def tell(self) -> int:
        return self.written

    def finish(self) -> None:
        """Write what is held."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(self._path, flags, 0o666)
        try:
            with memoryview(self._held) as view:
                done = 0
                while done < len(view):
                    done += os.write(handle, view[done:])
        finally:
            os.close(handle)
        self._held.clear()


@lru_cache(64)
def _measure_pads(schema: pa.Schema) -> tuple[int, dict[int, int]]:
    """Size of the file's header, and by position (modulo 64) the pad that aligns the next body."""
    empty = pa.RecordBatch.from_pylist([], schema=schema)
    pads: dict[int, int] = {}
    header = 0
    for pad in range(ALIGNMENT_BYTES + 8):
        sink = io.BytesIO()
        writer = pa.ipc.new_file(sink, schema)
        writer.write_batch(empty, custom_metadata={"pad": " " * pad})
        first = sink.tell()
        writer.write_batch(empty, custom_metadata={"pad": " " * pad})
        message = sink.tell() - first
        header = first - message
        pads.setdefault(-message % ALIGNMENT_BYTES, pad)
        writer.close()
    return header, pads


def _merge_stats(so_far: ColumnStats | None, column: pa.Array) -> ColumnStats:
    """What is known so far, with values that JSON cannot hold among it."""
    low, high = _min_max(column)
    if so_far is None:
        return ColumnStats(low, high, column.null_count)
    lows = [each for each in (so_far.min, low) if each is not None]
    highs = [each for each in (so_far.max, high) if each is not None]
    nulls = so_far.nulls + column.null_count
    return ColumnStats(min(lows, default=None), max(highs, default=None), nulls)


def _min_max(column: pa.Array) -> tuple[Plain, Plain]:
    kind = column.type
    is_float = pa.types.is_float32(kind) or pa.types.is_float64(kind)
    is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if not (is_float or is_whole or pa.types.is_string(kind)) or len(column) == 0:
        return None, None
    try:
        found = pc.min_max(column)
    except pa.ArrowNotImplementedError:
        # Of half floats.
        return None, None
    return found["min"].as_py(), found["max"].as_py()


def _plain(value: Plain) -> Plain:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if isinstance(value, str) and len(value) > _TEXT_MAX else value


def check_size(store: Store, file: FileRecord) -> None:
    """The shard is there with its recorded size: cheap, done whenever a dataset is opened.

    Raises:
        PipelineError: it is missing, truncated or longer.
    """
    try:
        found = store.size(file.path)
    except FileNotFoundError:
        raise _missing(store, file) from None
    if found != file.size_bytes:
        raise PipelineError(
            f"The shard {where(store, file)} is damaged: expected {file.size_bytes} bytes, "
            f"found {found}.",
            "Restore it, or remove the dataset and run its pipeline again.",
        )


def check_content(store: Store, file: FileRecord) -> None:
    """The shard has its recorded checksum; reads every byte (about 1 GB/s a core).

    Raises:
        PipelineError: any byte differs.
    """
    check_size(store, file)
    digest = blake2b(digest_size=CHECKSUM_BYTES)
    with store.open(file.path) as opened:
        while data := opened.read(READ_BYTES):
            digest.update(data)
    if digest.hexdigest() != file.checksum:
        raise PipelineError(
            f"The shard {where(store, file)} is damaged: expected checksum "
            f"{file.checksum[:16]}…, found {digest.hexdigest()[:16]}….",
            "Restore it, or remove the dataset and run its pipeline again.",
        )


def read_shard(store: Store, file: FileRecord) -> pa.Table:
    """A shard as a table; from a folder over mapped memory: nothing is read before it is touched.

    Raises:
        PipelineError: it is missing or damaged.
    """
    check_size(store, file)
    with opened_shard(store, file) as reader:
        table: pa.Table = reader.read_all()
    return table


@contextmanager
def opened_shard(store: Store, file: FileRecord) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """A shard for reading some of its batches.

    Raises:
        PipelineError: it is missing or damaged.
    """
    try:
        yield pa.ipc.open_file(store.open(file.path))
    except FileNotFoundError:
        raise _missing(store, file) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"The shard {where(store, file)} is damaged: {error}.") from error


def where(store: Store, file: FileRecord) -> str:
    """The whole address of a shard, for messages."""
    return f"{store.url}/{file.path}"


def _missing(store: Store, file: FileRecord) -> PipelineError:
    return PipelineError(
        f"The shard {where(store, file)} is missing.", "Restore it, or run its pipeline again."
    )
