"""A file in S3 as a file for random access, by requests for ranges of it.

Arrow reads its files back to front and then, most often, forwards. The first request brings the
end, with the footer, and the size; reads that follow each other fetch ever more at once, and what
is fetched at once comes by several connections.
"""

from __future__ import annotations

import io
from collections.abc import Callable

TAIL_BYTES = 64 << 10
"""Footers of most files are shorter; a longer one costs a request."""

PART_BYTES = 4 << 20
"""What one request brings at the most."""

WINDOW_BYTES_MIN, WINDOW_BYTES_MAX = 256 << 10, 32 << 20
"""Read ahead: the first time, and at the most; doubled while reads follow each other."""

Fetch = Callable[[list[int], list[int]], list[memoryview]]
"""Starts and ends of ranges; their content."""


class RangeFile(io.RawIOBase):
    """A file that does not change. For one thread at a time, as Arrow uses it.

    Args:
        fetch: Brings ranges, several at a time.
        size_bytes: Of the file.
        tail: The end of it, which is there already.
    """

    def __init__(self, fetch: Fetch, size_bytes: int, tail: bytes) -> None:
        self._fetch = fetch
        self._size = size_bytes
        self._tail, self._tail_start = memoryview(tail), size_bytes - len(tail)
        self._window, self._window_start = memoryview(b""), 0
        self._ahead = WINDOW_BYTES_MIN
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; costs nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readall(self) -> bytes:
        """All that follows."""
        return self.read(-1)

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; fewer only at the end."""
        return bytes(self.read_buffer(size))

    def read_buffer(self, size: int | None = -1, /) -> memoryview:
        """As `read`, without a copy where possible; Arrow prefers this."""
        start = min(self._at, self._size)
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        self._at = end
        found: list[memoryview] = []
        while start < end:
            part = self._held(start, end)
            if not part:
                part = self._load(start, end)
            found.append(part)
            start += len(part)
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    def _held(self, start: int, end: int) -> memoryview:
        """As much from ``start`` on as was fetched before."""
        for first, held in (
            (self._tail_start, self._tail),
            (self._window_start, self._window),
        ):
            if first <= start < first + len(held):
                return held[start - first : end - first]
        return memoryview(b"")

    def _load(self, start: int, end: int) -> memoryview:
        """Fetch what is asked for and, when reads follow each other, what will be asked next."""
        follows = 0 <= start - (self._window_start + len(self._window)) < WINDOW_BYTES_MIN
        self._ahead = min(self._ahead * 2, WINDOW_BYTES_MAX) if follows else WINDOW_BYTES_MIN
        stop = min(max(end, start + self._ahead), max(end, self._tail_start))
        starts = list(range(start, stop, PART_BYTES))
        parts = self._fetch(starts, [*starts[1:], stop])
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        self._window, self._window_start = whole, start
        return whole[: end - start]
