"""Rows by number from mapped shards, with one copy for fixed-width columns.

All shards of a dataset are mapped into one range of addresses, each when it is first touched. A
row of a fixed-width column is then one address in that range, so a batch is one numpy gather,
whatever shards its rows lie in. Other columns go through Arrow's ``take`` over the batches touched.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched_pipelines.datasets import Dataset
from mlsched_pipelines.sampler import Positions

PAGE_BYTES = mmap.PAGESIZE
MAP_FIXED = 0x10
"""Of Linux and macOS; Python's mmap module has no name for it."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


class Layout(Struct, frozen=True):
    """A fixed-width column: what one row is in numpy. Make it with `fixed_layout`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    width_bytes: int
    """Bytes of one row."""
    granule_bytes: int
    """Rows begin at multiples of this, since buffers begin at multiples of 8."""


def _layout(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Layout:
    width = dtype.itemsize * prod(shape)
    return Layout(dtype, shape, width, gcd(8, width))


def fixed_layout(kind: pa.DataType) -> Layout | None:
    """How a type looks in numpy, or None if its rows differ in size or are bits."""
    shape: tuple[int, ...] = ()
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _layout(np.dtype(kind.to_pandas_dtype()), shape)
    if pa.types.is_timestamp(kind):
        return _layout(np.dtype(f"M8[{kind.unit}]"), shape)
    if pa.types.is_duration(kind):
        return _layout(np.dtype(f"m8[{kind.unit}]"), shape)
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        return _layout(np.dtype(np.uint8), (*shape, kind.byte_width))
    return None


class ShardMap:
    """The shards of a dataset in one range of addresses.

    Args:
        dataset: What to map; its shards must not be changed meanwhile (nothing here changes them).
        columns: The columns that will be asked for.

    Memory: 8 bytes for each record batch and fixed-width column. A shard costs one mapping.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self.dataset = dataset
        sizes = np.array([_round_up(file.size_bytes) for file in dataset.files], dtype=np.int64)
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._range = mmap.mmap(
            -1,
            max(PAGE_BYTES, int(self._bases[-1])),
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            prot=mmap.PROT_READ,
        )
        self._bytes = np.frombuffer(self._range, dtype=np.uint8)
        rows = np.array([file.rows for file in dataset.files], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._batch_rows = np.array([file.batch_rows for file in dataset.files], dtype=np.int64)
        self._first_batch = np.concatenate([[0], np.cumsum(-(-rows // self._batch_rows))]).astype(
            np.int64
        )
        self._readers: dict[int, pa.ipc.RecordBatchFileReader] = {}
        self._announced: set[int] = set()
        self._fits_memory = dataset.size_bytes < _memory_bytes() // 2
        self.layouts = _layouts(dataset, columns)
        self.others = tuple(name for name in columns if name not in self.layouts)
        batches = int(self._first_batch[-1])
        self._offsets = {name: np.full(batches, -1, np.int64) for name in self.layouts}
        self._views = {name: self._view(layout) for name, layout in self.layouts.items()}

    def addresses(self, rows: Positions) -> dict[str, Positions]:
        """Where rows lie, by fixed-width column: what `gather` takes. Maps their shards."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        if len(self._readers) < len(self.dataset.files):
            for shard in np.unique(shards).tolist():
                self._reader(shard)
        batches, inside = self._locate(rows, shards)
        found: dict[str, Positions] = {}
        for name, layout in self.layouts.items():
            width = layout.width_bytes
            found[name] = (self._offsets[name][batches] + inside * width) // layout.granule_bytes
        return found

    def gather(self, name: str, index: Positions) -> npt.NDArray[Any]:
        """Rows of a fixed-width column; neighbours in one batch are a view, others one copy."""
        layout = self.layouts[name]
        step = layout.width_bytes // layout.granule_bytes
        count = len(index)
        if count and index[-1] - index[0] == (count - 1) * step and (np.diff(index) == step).all():
            start = int(index[0]) * layout.granule_bytes
            flat = self._bytes[start : start + count * layout.width_bytes]
        else:
            flat = self._views[name][index]
        return flat.view(layout.dtype).reshape(count, *layout.shape)

    def take(self, name: str, rows: Positions) -> pa.Array:
        """Rows of any column as an Arrow array, through Arrow's kernels."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        batches, inside = self._locate(rows, shards)
        touched, which = np.unique(batches, return_inverse=True)
        owners = np.searchsorted(self._first_batch, touched, side="right") - 1
        chunks = [
            self._reader(shard).get_batch(batch - int(self._first_batch[shard])).column(name)
            for shard, batch in zip(owners.tolist(), touched.tolist(), strict=True)
        ]
        before = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        wanted = pa.array(before[which] + inside)
        kind = self.dataset.schema.field(name).type
        return pa.chunked_array(chunks, kind).take(wanted).combine_chunks()

    def will_need(self, rows: Positions, block_rows: int) -> None:
        """Tell the kernel which blocks come next, so that it reads them while others are used.

        Where all the data fits into memory, each block is told once: after that it is cached.
        """
        if self._fits_memory and len(self._announced) * block_rows >= self._starts[-1]:
            return
        numbers = np.unique(rows // block_rows)
        if self._fits_memory:
            numbers = numbers[[number not in self._announced for number in numbers.tolist()]]
            self._announced.update(numbers.tolist())
        if len(numbers) == 0:
            return
        blocks = numbers * block_rows
        ends = np.minimum(blocks + block_rows, self._starts[-1]) - 1
        first, last = self.addresses(blocks), self.addresses(ends)
        for name, layout in self.layouts.items():
            size = layout.granule_bytes
            for low, high in zip(first[name].tolist(), last[name].tolist(), strict=True):
                start = low * size // PAGE_BYTES * PAGE_BYTES
                length = high * size + layout.width_bytes - start
                if length > 0:
                    self._range.madvise(mmap.MADV_WILLNEED, start, length)

    def _locate(self, rows: Positions, shards: Positions) -> tuple[Positions, Positions]:
        """Global number of the record batch of each row, and the row within it."""
        local = rows - self._starts[shards]
        size = self._batch_rows[shards]
        return self._first_batch[shards] + local // size, local % size

    def _reader(self, shard: int) -> pa.ipc.RecordBatchFileReader:
        if shard not in self._readers:
            self._map(shard)
        return self._readers[shard]

    def _map(self, shard: int) -> None:
        """Map one shard at its place in the range, and note where its buffers are."""
        file, base = self.dataset.files[shard], int(self._bases[shard])
        path = self.dataset.root / file.path
        start = self._bytes.ctypes.data + base
        handle = os.open(path, os.O_RDONLY)
        try:
            if os.fstat(handle).st_size != file.size_bytes:
                raise PipelineError(
                    f"The shard {path} is damaged: expected {file.size_bytes} bytes."
                )
            flags = mmap.MAP_SHARED | MAP_FIXED
            placed = _libc.mmap(start, file.size_bytes, mmap.PROT_READ, flags, handle, 0)
        finally:
            os.close(handle)
        if placed != start:
            reason = os.strerror(ctypes.get_errno())
            raise PipelineError(
                f"The shard {path} cannot be mapped: {reason}.", "Raise vm.max_map_count."
            )
        buffer = pa.foreign_buffer(start, file.size_bytes, base=self._bytes)
        try:
            reader = pa.ipc.open_file(buffer)
            self._note_offsets(shard, reader)
        except (pa.ArrowInvalid, OSError) as error:
            raise PipelineError(f"The shard {path} is damaged: {error}.") from error
        self._readers[shard] = reader

    def _note_offsets(self, shard: int, reader: pa.ipc.RecordBatchFileReader) -> None:
        first = int(self._first_batch[shard])
        origin = self._bytes.ctypes.data
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            for name in self.layouts:
                if _has_nulls_inside(batch.column(name)):
                    raise PipelineError(
                        f"Column {name!r} has a null inside its lists, and a feed of fixed-size "
                        "lists has no place for one.",
                        "Fill it in the pipeline, or leave the column out of the feed.",
                    )
                data = batch.column(name).buffers()[-1]
                self._offsets[name][first + number] = data.address - origin

    def _view(self, layout: Layout) -> npt.NDArray[Any]:
        """Every place where a row of the column can begin, as an array that overlaps itself."""
        granule, width = layout.granule_bytes, layout.width_bytes
        count = max(0, (len(self._bytes) - width) // granule + 1)
        return np.ndarray((count,), dtype=f"V{width}", buffer=self._bytes, strides=(granule,))


def _has_nulls_inside(column: pa.Array) -> bool:
    """Whether a value within a list is null; the counts are in the file, nothing is read for it."""
    while pa.types.is_fixed_size_list(column.type):
        column = column.values
        if column.null_count:
            return True
    return False


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _round_up(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def _layouts(dataset: Dataset, columns: Sequence[str]) -> dict[str, Layout]:
    """The fixed-width columns without a null."""
    found: dict[str, Layout] = {}
    for name in columns:
        layout = fixed_layout(dataset.schema.field(name).type)
        stats = [file.columns.get(name) for file in dataset.files]
        whole = all(each is None or each.nulls == 0 for each in stats)
        if layout is not None and layout.width_bytes and whole:
            found[name] = layout
    return found
