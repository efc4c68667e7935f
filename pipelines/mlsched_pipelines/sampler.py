"""The order of samples: a permutation computed at any position, with no list and no state.

Rows are cut into blocks of neighbouring rows. A keyed bijection orders the blocks; the rows of some
consecutive blocks of that order (a window) are permuted among themselves. So any position is found
in constant time and memory, reads touch a few blocks at a time, and the order depends on (seed,
epoch) and the data alone: not on ranks, workers or where one resumes.

The bits come from Philox and BLAKE2b, whose output is fixed, never from numpy's distributions,
whose output may change between versions: a checkpoint stays valid.

Source: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002 (Feistel network
with cycle walking); S. Vigna, splitmix64 (round function).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

ROUNDS = 6
CHUNK_SLOTS = 4096
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


class Bijection:
    """A keyed permutation of 0..n-1, both ways, by whole arrays.

    Args:
        n: Size of the domain, at least 1.
        key: Any bytes; another key gives another permutation.
    """

    def __init__(self, n: int, key: bytes) -> None:
        self.n = n
        self._half = max(1, ((n - 1).bit_length() + 1) // 2)
        seed = blake2b(key, digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(seed, dtype="<u8").astype(np.uint64)

    def forward(self, positions: Positions) -> Positions:
        """The values at some positions."""
        return self._walk(positions, self._keys, forward=True)

    def inverse(self, values: Positions) -> Positions:
        """The positions of some values."""
        return self._walk(values, self._keys[::-1], forward=False)

    def _walk(self, given: Positions, keys: Words, *, forward: bool) -> Positions:
        """Encrypt until the value is in the domain: at most four rounds expected."""
        words = self._network(given.astype(np.uint64), keys, forward=forward)
        outside = words >= self.n
        while outside.any():
            words[outside] = self._network(words[outside], keys, forward=forward)
            outside = words >= self.n
        return words.astype(np.int64)

    def _network(self, words: Words, keys: Words, *, forward: bool) -> Words:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = words >> half, words & mask
        for key in keys:
            if forward:
                left, right = right, left ^ (_mix(right + key) & mask)
            else:
                left, right = right ^ (_mix(left + key) & mask), left
        return (left << half) | right


def _mix(words: Words) -> Words:
    words = (words ^ (words >> _S30)) * _M1
    words = (words ^ (words >> _S27)) * _M2
    return words ^ (words >> _S31)


class ShuffleQuality(Struct, frozen=True):
    """How near an order is to a uniform permutation; 1 is as good as uniform."""

    neighbour_distance: float
    """Mean distance in the dataset of samples that follow each other, over a uniform order's."""
    batch_diversity: float
    """Expected number of different blocks in a batch, over that of a uniform order."""


class Order:
    """The order of all rows in one epoch.

    Args:
        rows: Number of rows, at least 1.
        seed: Chooses the order, with the epoch.
        epoch: Counted from 0.
        block_rows: Neighbouring rows that are read together.
        window: Blocks whose rows are mixed; 0 leaves the rows as they are.
    """

    def __init__(self, rows: int, seed: int, epoch: int, *, block_rows: int, window: int) -> None:
        self.rows = rows
        self._key = f"{seed}:{epoch}".encode()
        self._block_rows, self._window = block_rows, window
        self._blocks = -(-rows // block_rows)
        self._bijection = Bijection(self._blocks, b"blocks:" + self._key)
        last = np.array([self._blocks - 1], dtype=np.int64)
        self._short_slot = int(self._bijection.inverse(last)[0])
        self._short_rows = self._blocks * block_rows - rows
        self._window_rows = lru_cache(maxsize=4)(self._make_window)
        self._block_chunk = lru_cache(maxsize=2)(self._make_chunk)

    def range(self, start: int, stop: int) -> Positions:
        """The rows at positions ``start`` to ``stop`` of the epoch.

        Cost: that of the windows that the range touches, wherever it lies in the epoch.
        """
        if self._window == 0:
            return np.arange(start, stop, dtype=np.int64)
        parts: list[Positions] = []
        at = start
        while at < stop:
            number = self._window_at(at)
            first, rows = self._start_of(number * self._window), self._window_rows(number)
            part = rows[at - first : stop - first]
            parts.append(part)
            at += len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _window_at(self, position: int) -> int:
        """The short block moves starts to the left only, by less than a window."""
        number = position // (self._window * self._block_rows)
        following = (number + 1) * self._window
        moved = following < self._blocks and self._start_of(following) <= position
        return number + 1 if moved else number

    def _start_of(self, slot: int) -> int:
        """Position at which a slot of the block order begins."""
        return slot * self._block_rows - (self._short_rows if slot > self._short_slot else 0)

    def _make_window(self, number: int) -> Positions:
        first = number * self._window
        blocks = self._block_order(first, min(first + self._window, self._blocks))
        inside = np.arange(self._block_rows, dtype=np.int64)
        rows = (blocks[:, None] * self._block_rows + inside[None, :]).reshape(-1)
        rows = rows[rows < self.rows]
        key = int.from_bytes(
            blake2b(b"window:%d:" % number + self._key, digest_size=16).digest(), "little"
        )
        # Sorting random words that end in their own position is an argsort without ties, and fast.
        low = np.uint64((1 << len(rows).bit_length()) - 1)
        draws = np.random.Philox(key=key).random_raw(len(rows))
        words = np.sort((draws & ~low) | np.arange(len(rows), dtype=np.uint64))
        return rows[(words & low).astype(np.int64)]

    def _block_order(self, first: int, stop: int) -> Positions:
        """The blocks in some slots; computed by thousands, since numpy's cost is by the call."""
        parts = [
            self._block_chunk(chunk)[
                max(0, first - chunk * CHUNK_SLOTS) : stop - chunk * CHUNK_SLOTS
            ]
            for chunk in range(first // CHUNK_SLOTS, (stop - 1) // CHUNK_SLOTS + 1)
        ]
        return np.concatenate(parts)

    def _make_chunk(self, number: int) -> Positions:
        first = number * CHUNK_SLOTS
        slots = np.arange(first, min(first + CHUNK_SLOTS, self._blocks), dtype=np.int64)
        return self._bijection.forward(slots)

    def quality(self, batch_size: int, samples: int = 20_000) -> ShuffleQuality:
        """Scores of this order; the distance is measured on the first ``samples`` positions."""
        rows = self.range(0, min(samples, self.rows))
        uniform = (self.rows + 1) / 3
        distance = float(np.abs(np.diff(rows)).mean()) / uniform if len(rows) > 1 else 1.0
        mixed = min(max(1, self._window), self._blocks)
        if self._window == 0:
            mixed = -(-batch_size // self._block_rows)
        diversity = _different(mixed, batch_size) / _different(self._blocks, batch_size)
        return ShuffleQuality(min(1.0, distance), min(1.0, diversity))


def _different(kinds: int, draws: int) -> float:
    """Expected number of kinds among some draws of equally likely kinds."""
    return float(kinds * (1.0 - (1.0 - 1.0 / kinds) ** draws))
