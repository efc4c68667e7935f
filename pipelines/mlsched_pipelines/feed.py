"""The training feed: batches from mapped shards in an order that survives restarts and resizing.

    feed = Feed(open_dataset("digits"), batch_size=64, seed=1)
    for batch in feed.batches(state):
        train(batch.numpy())
        save(model, batch.state.to_bytes())

``batch_size`` is the global batch: rank r of W takes its part of every global batch, so the global
order is the same for every W, and a job may resume with another number of ranks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched_pipelines.datasets import Dataset
from mlsched_pipelines.gathers import ShardMap
from mlsched_pipelines.sampler import Order, Positions, ShuffleQuality
from mlsched_pipelines.schema import unknown_field

Last = Literal["drop", "pad", "short"]
"""What becomes of the rows after the last full global batch: left out, filled up with rows from the
epoch's beginning, or given as a smaller batch. Decided on the global order, so all ranks agree."""

_STATE = struct.Struct("<4sQIQQQ")
_MAGIC = b"MLF1"


class FeedState(Struct, frozen=True):
    """Where a feed is; all that a checkpoint must keep (40 bytes)."""

    seed: int
    epoch: int
    global_step: int
    """Global batches given since the first epoch began."""
    manifest_version: int
    order: int
    """Fingerprint of all that decides the order: data, batch size, blocks, window, last."""

    def to_bytes(self) -> bytes:
        """The state as bytes, always the same for the same state."""
        return _STATE.pack(
            _MAGIC, self.seed, self.epoch, self.global_step, self.manifest_version, self.order
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that `to_bytes` wrote.

        Raises:
            PipelineError: these are not the bytes of a feed state.
        """
        if len(data) != _STATE.size or not data.startswith(_MAGIC):
            raise PipelineError(
                f"Expected the {_STATE.size} bytes of a feed state, found {len(data)} bytes."
            )
        return cls(*_STATE.unpack(data)[1:])

    def to_json(self) -> str:
        """The state as a JSON object."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> FeedState:
        """The state that `to_json` wrote.

        Raises:
            PipelineError: the text is not the JSON of a feed state.
        """
        try:
            return _decode_state(text)
        except msgspec.DecodeError as error:
            raise PipelineError(f"Expected the JSON of a feed state: {error}.") from error


_decode_state = msgspec.json.Decoder(FeedState).decode


class Batch(Struct, frozen=True):
    """This rank's part of one global batch."""

    columns: dict[str, npt.NDArray[Any] | pa.Array]
    """Fixed-width columns without nulls as numpy arrays (rows first), others as Arrow arrays."""
    schema: pa.Schema
    rows: Positions
    """Numbers of the rows in the dataset."""
    state: FeedState
    """Where the feed is after this batch."""

    def __len__(self) -> int:
        return len(self.rows)

    def numpy(self) -> dict[str, npt.NDArray[Any]]:
        """Columns as numpy arrays; text and nullable columns become arrays of objects."""
        return {
            name: column
            if isinstance(column, np.ndarray)
            else column.to_numpy(zero_copy_only=False)
            for name, column in self.columns.items()
        }

    def arrow(self) -> pa.RecordBatch:
        """Columns as an Arrow record batch over the same memory."""
        arrays = [
            _as_arrow(self.columns[field.name], field.type, len(self)) for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def torch(self) -> dict[str, Any]:
        """Fixed-width columns as torch tensors over the same memory; needs torch."""
        import torch  # type: ignore[import-not-found, unused-ignore]

        numeric = {name: col for name, col in self.columns.items() if isinstance(col, np.ndarray)}
        return {
            name: torch.from_numpy(col if col.flags.writeable else col.copy())
            for name, col in numeric.items()
        }


@dataclass(frozen=True)
class Feed:
    """Batches of a dataset for one rank.

    Cost: opening is O(files); the first batch at any position costs a few windows. A batch is one
    copy out of the page cache, or none when its rows lie together (``shuffle=False``).

    Raises:
        PipelineError: sizes or ranks make no sense, or the dataset has no rows for a batch.
        SchemaMismatchError: a column does not exist.
    """

    dataset: Dataset
    batch_size: int
    """Rows of a global batch, over all ranks."""
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    window: int = 16
    """Blocks mixed at a time: larger mixes better (`quality`) and keeps more of the data in use."""
    block_rows: int = 256
    """Neighbouring rows read together: larger reads faster from disks."""
    shuffle: bool = True
    last: Last = "drop"
    columns: tuple[str, ...] = ()
    """The columns to read; empty reads all."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise PipelineError(
                f"Feed: expected 0 <= rank < world_size, found {self.rank} of {self.world_size}."
            )
        if min(self.batch_size, self.window, self.block_rows) < 1 or not 0 <= self.seed < 1 << 64:
            raise PipelineError(
                "Feed: batch_size, window and block_rows are at least 1, seed is 0..2**64-1."
            )
        if self.last not in ("drop", "pad", "short"):
            raise PipelineError(f"Feed: last is drop, pad or short, found {self.last!r}.")
        for name in self.columns:
            if name not in self.dataset.schema.names:
                raise unknown_field(name, self.dataset.schema.names, "Feed asks for")
        if self.steps_per_epoch == 0:
            raise PipelineError(
                f"Feed: {self.dataset.rows} rows do not fill one batch of {self.batch_size}.",
                "Take a smaller batch_size, or last='short'.",
            )

    @classmethod
    def from_environment(
        cls, dataset: Dataset, batch_size: int, environment: Mapping[str, str], **options: Any
    ) -> Self:
        """A feed for the rank that ``RANK`` and ``WORLD_SIZE`` name; rank 0 of 1 without them."""
        found = [environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")]
        if not all(text.isdecimal() for text in found):
            raise PipelineError(f"RANK and WORLD_SIZE must be numbers, found {found}.")
        return cls(dataset, batch_size, rank=int(found[0]), world_size=int(found[1]), **options)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        whole = self.dataset.rows // self.batch_size
        return whole if self.last == "drop" else -(-self.dataset.rows // self.batch_size)

    @cached_property
    def start(self) -> FeedState:
        """The state before the first batch."""
        return FeedState(self.seed, 0, 0, self.dataset.version, self._fingerprint)

    def quality(self) -> ShuffleQuality:
        """How well this feed mixes, in figures."""
        return self._order(0).quality(self.batch_size)

    def batches(self, state: FeedState | None = None, *, epochs: int = 1) -> Iterator[Batch]:
        """Batches from a state on, until ``epochs`` epochs have ended since the very beginning.

        Args:
            state: Of the last batch that was used; the beginning by default.
            epochs: Epochs in all, those before the state included.

        Raises:
            PipelineError: the state belongs to other data or another order.
        """
        at = self.start if state is None else state
        self._check_state(at)
        step, end = at.global_step, epochs * self.steps_per_epoch
        group = max(1, self.window * self.block_rows // self.batch_size)
        while step < end:
            epoch, local = divmod(step, self.steps_per_epoch)
            stop = min(local + group, self.steps_per_epoch, local + end - step)
            yield from self._group(epoch, local, stop)
            step += stop - local

    def _group(self, epoch: int, first: int, stop: int) -> Iterator[Batch]:
        """Some steps: positions and addresses are computed together, rows copied step by step."""
        rows, ends = self._my_rows(epoch, first, stop)
        shards = self._shards
        shards.will_need(rows, self.block_rows)
        index = shards.addresses(rows)
        others = {name: shards.take(name, rows) for name in shards.others}
        begin = 0
        for number, end in enumerate(ends, first + 1):
            part = slice(begin, end)
            columns = {name: shards.gather(name, found[part]) for name, found in index.items()}
            columns |= {name: column[begin:end] for name, column in others.items()}
            yield Batch(columns, self._schema, rows[part], self._state_after(epoch, number))
            begin = end

    def _my_rows(self, epoch: int, first: int, stop: int) -> tuple[Positions, list[int]]:
        """This rank's rows of some steps, one step after the other, and where each step ends."""
        size, total = self.batch_size, self.dataset.rows
        order = self._order(epoch)
        rows = order.range(first * size, min(stop * size, total))
        if self.last == "pad" and stop * size > total:
            fill = np.arange(stop * size - total) % total
            rows = np.concatenate([rows, order.range(0, int(fill.max()) + 1)[fill]])
        parts: list[Positions] = []
        for begin in range(0, len(rows), size):
            step = rows[begin : begin + size]
            low = self.rank * len(step) // self.world_size
            high = (self.rank + 1) * len(step) // self.world_size
            parts.append(step[low:high])
        return np.concatenate(parts), np.cumsum([len(part) for part in parts]).tolist()

    @cached_property
    def _order(self) -> Callable[[int], Order]:
        """The order of an epoch; kept while it is in use, since windows span groups of steps."""
        return lru_cache(maxsize=2)(self._make_order)

    def _make_order(self, epoch: int) -> Order:
        window = self.window if self.shuffle else 0
        return Order(self.dataset.rows, self.seed, epoch, block_rows=self.block_rows, window=window)

    def _state_after(self, epoch: int, steps: int) -> FeedState:
        done = epoch * self.steps_per_epoch + steps
        over = steps == self.steps_per_epoch
        return FeedState(self.seed, epoch + over, done, self.dataset.version, self._fingerprint)

    def _check_state(self, state: FeedState) -> None:
        if state.manifest_version != self.dataset.version:
            raise PipelineError(
                f"The state belongs to version {state.manifest_version} of the dataset, the feed "
                f"reads version {self.dataset.version}.",
                f"open_dataset(path, version={state.manifest_version})",
            )
        if (state.order, state.seed) != (self._fingerprint, self.seed):
            raise PipelineError(
                "The state belongs to another order: data, seed, batch_size, window, block_rows, "
                "shuffle and last must be those of the feed that made it.",
                "rank and world_size may differ.",
            )

    @cached_property
    def _fingerprint(self) -> int:
        window = self.window if self.shuffle else 0
        what = (
            self.dataset.digest,
            self.dataset.rows,
            self.batch_size,
            window,
            self.block_rows,
            self.last,
        )
        return int.from_bytes(blake2b(repr(what).encode(), digest_size=8).digest(), "little")

    @cached_property
    def _schema(self) -> pa.Schema:
        schema = self.dataset.schema
        return pa.schema([schema.field(name) for name in self.columns]) if self.columns else schema

    @cached_property
    def _shards(self) -> ShardMap:
        return ShardMap(self.dataset, self._schema.names)


def _as_arrow(column: npt.NDArray[Any] | pa.Array, kind: pa.DataType, rows: int) -> pa.Array:
    """A numpy column as an Arrow array of its type, without a copy."""
    if not isinstance(column, np.ndarray):
        return column
    if pa.types.is_fixed_size_list(kind):
        values = _as_arrow(column, kind.value_type, rows * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    flat = np.ascontiguousarray(column).reshape(-1).view(np.uint8)
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(flat)])
