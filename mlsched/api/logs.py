"""The output of jobs: records in the files of an attempt directory, and following them.

Turns ``rank-R.log`` (CRI log format: ``TIME STREAM F|P BYTES``, one record a line) and its rotated
files into `Record` values; `logfiles` finds and opens the files. Reads only: the supervisor writes.
Source: the Kubernetes container runtime interface's log format, as `mlsched.adapters.local` has it.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from mlsched.api.logfiles import (
    FLAG_AT,
    close_all,
    find_ranks,
    find_tail,
    first_of_last_lines,
    open_files,
)

CHUNK_BYTES = 1 << 20
"""Read at once: more than a rank writes between two looks, less than a laptop notices."""

_DATA_AT = FLAG_AT + 2
_RUN = re.compile(rb"([^\n]{30} (?:stdout|stderr) F )[^\n]*+\n(?:\1[^\n]*+\n)*+")
"""Whole lines in a row that carry one time and one stream: what the supervisor read at once."""


class Record(Struct, frozen=True):
    """A line of output, or a part of one; in blocks, all lines that were written at once."""

    rank: int
    at: str
    """RFC 3339 UTC with nanoseconds, so that text order is time order."""
    stream: str
    """``stdout`` or ``stderr``."""
    ends_line: bool
    data: bytes
    """Without the newline."""

    @property
    def raw(self) -> bytes:
        """The bytes as the job wrote them."""
        return self.data + b"\n" if self.ends_line else self.data

    @property
    def size_bytes(self) -> int:
        """Of the output in it."""
        return len(self.data) + self.ends_line


def parse_record(rank: int, line: bytes) -> Record | None:
    """One record; None for a line that is none."""
    stream = line[FLAG_AT - 7 : FLAG_AT - 1]
    flag = line[FLAG_AT : FLAG_AT + 1]
    if stream not in (b"stdout", b"stderr") or flag not in (b"F", b"P"):
        return None
    at = line[: FLAG_AT - 8].decode("ascii", "replace")
    return Record(rank, at, stream.decode(), flag == b"F", line[_DATA_AT:])


def parse_records(rank: int, data: bytes) -> list[Record]:
    """The records of whole lines of a log, a record each."""
    lines = data.split(b"\n")[:-1]
    return [record for line in lines if (record := parse_record(rank, line))]


def parse_blocks(rank: int, data: bytes) -> list[Record]:
    """The same bytes in few records: for printing, ten times as fast and more with short lines."""
    records: list[Record | None] = []
    begin = 0
    while begin < len(data):
        found = _RUN.match(data, begin)
        if found is not None:
            head = found[1]
            lines = head + data[found.end(1) : found.end() - 1].replace(b"\n" + head, b"\n")
            records.append(parse_record(rank, lines))
            begin = found.end()
        else:
            end = data.index(b"\n", begin)
            records.append(parse_record(rank, data[begin:end]))
            begin = end + 1
    return [record for record in records if record is not None]


class RankLog:
    """Reads the log of one rank from the start, through rotations, as it grows.

    A record that is cut off is left for the next read, from the file and not from memory: the
    supervisor takes such a record back when the disk was full.

    Args:
        directory: The attempt directory.
        rank: Whose log.
        blocks: Give what was written at once as one record.
    """

    def __init__(self, directory: Path, rank: int, *, blocks: bool = False) -> None:
        self._parse = parse_blocks if blocks else parse_records
        self._directory = directory
        self._rank = rank
        self._handle = -1
        self._offset = 0
        self._inode = 0

    def close(self) -> None:
        """Close the open file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def read(self) -> list[Record]:
        """The next records, at most about a mebibyte; empty when there are no more now."""
        while self._handle >= 0 or self._open_next():
            rotated = self._is_rotated()
            records = self._read_chunk()
            if records or not rotated or not self._open_next():
                return records
        return []

    def skip_to_tail(self, lines: int) -> None:
        """Go to where the last ``lines`` lines of all files begin."""
        handles = open_files(self._directory, self._rank)
        left = lines
        for handle in reversed(handles):
            offset, found = find_tail(handle, left)
            left -= found
            if left <= 0 or handle == handles[0]:
                self._take(handle, handles, offset)
                return

    def find_end(self) -> tuple[int, int]:
        """Where the log ends now: inode and size of its newest file."""
        try:
            found = (self._directory / f"rank-{self._rank}.log").stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    def is_past(self, end: tuple[int, int]) -> bool:
        """Whether everything was read that was there when the end was at this place."""
        inode, size = end
        if self._inode == inode:
            return self._offset >= size
        handles = open_files(self._directory, self._rank)
        inodes = [os.fstat(handle).st_ino for handle in handles]
        close_all(handles)
        return inode not in inodes or self._inode in inodes[inodes.index(inode) :]

    def _read_chunk(self) -> list[Record]:
        size = CHUNK_BYTES
        while True:
            data = os.pread(self._handle, size, self._offset)
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                break
            size *= 2
        self._offset += end
        return self._parse(self._rank, data[:end])

    def _is_rotated(self) -> bool:
        newest = self._directory / f"rank-{self._rank}.log"
        try:
            return newest.stat().st_ino != self._inode
        except OSError:
            return False

    def _open_next(self) -> bool:
        """Open the file after the one read last, or the oldest that is left."""
        handles = open_files(self._directory, self._rank)
        inodes = [os.fstat(handle).st_ino for handle in handles]
        position = 0
        if self._handle >= 0 and self._inode in inodes:
            position = inodes.index(self._inode) + 1
        elif self._handle >= 0 and os.fstat(self._handle).st_nlink > 0:
            position = len(handles)
        if position == len(handles):
            close_all(handles)
            return False
        self._take(handles[position], handles, 0)
        return True

    def _take(self, handle: int, handles: list[int], offset: int) -> None:
        """Read this one of the handles from now on, and close the others."""
        close_all(other for other in handles if other != handle)
        self.close()
        self._handle, self._offset, self._inode = handle, offset, os.fstat(handle).st_ino


class AttemptLog:
    """The logs of all ranks of one attempt, or of one rank.

    Args:
        directory: The attempt directory; it need not exist yet.
        rank: Only this rank; None for all.
        tail: Begin with the last so many lines of each rank; None for everything.
        blocks: Give what was written at once as one record.
    """

    def __init__(
        self,
        directory: Path,
        rank: int | None = None,
        tail: int | None = None,
        *,
        blocks: bool = False,
    ) -> None:
        self._directory = directory
        self._rank = rank
        self._tail = tail
        self._blocks = blocks
        self._logs: dict[int, RankLog] = {}

    def close(self) -> None:
        """Close all files."""
        for log in self._logs.values():
            log.close()

    def read(self) -> list[Record]:
        """What was written since the last read, rank by rank."""
        for rank in find_ranks(self._directory):
            if rank not in self._logs and self._rank in (None, rank):
                log = self._logs[rank] = RankLog(self._directory, rank, blocks=self._blocks)
                if self._tail is not None:
                    log.skip_to_tail(self._tail)
        return [record for log in self._logs.values() for record in log.read()]


def read_attempt(
    directory: Path,
    rank: int | None = None,
    *,
    tail: int | None = None,
    since: str = "",
    blocks: bool = False,
) -> Iterator[Record]:
    """Records of an attempt in the order of their times, to the end of what is there now.

    Args:
        directory: The attempt directory.
        rank: Only this rank; None for all.
        tail: Only the last so many lines in all; None for everything.
        since: Only records at this RFC 3339 time or later.
        blocks: Give what was written at once as one record; a tail is always given by line.
    """
    blocks = blocks and tail is None
    ranks = [one for one in find_ranks(directory) if rank in (None, one)]
    streams = [_read_rank(directory, one, tail, blocks) for one in ranks]
    merged = heapq.merge(*streams, key=lambda record: record.at)
    chosen = (record for record in merged if record.at >= since)
    return chosen if tail is None else iter(last_lines(chosen, tail))


def _read_rank(directory: Path, rank: int, tail: int | None, blocks: bool) -> Iterator[Record]:
    log = RankLog(directory, rank, blocks=blocks)
    try:
        if tail is not None:
            log.skip_to_tail(tail)
        end = log.find_end()
        while records := log.read():
            yield from records
            if log.is_past(end):
                return
    finally:
        log.close()


def last_lines(records: Iterator[Record], lines: int) -> list[Record]:
    """The records of the last lines; parts of a line belong to it."""
    kept: list[Record] = []
    for record in records:
        kept.append(record)
        if len(kept) > 2 * lines + 4096:
            kept = _cut_to_lines(kept, lines)
    return _cut_to_lines(kept, lines)


def _cut_to_lines(records: list[Record], lines: int) -> list[Record]:
    return records[first_of_last_lines([one.ends_line for one in records], lines) :]
