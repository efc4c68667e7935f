"""The output of jobs: records in the files of an attempt directory, and following them.

Turns ``rank-R.log`` (CRI log format: ``TIME STREAM F|P BYTES``, one record a line) and its rotated
files into `Record` values. Reads only: the supervisor writes. Source: the Kubernetes container
runtime interface's log format, as `mlsched.adapters.local` writes it.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

CHUNK_BYTES = 1 << 20
"""Read at once: more than a rank writes between two looks, less than a laptop notices."""

_FLAG_AT = len("2026-11-26T13:00:00.123456789Z stdout ")
_DATA_AT = _FLAG_AT + 2
_RUN = re.compile(rb"([^\n]{30} (?:stdout|stderr) F )[^\n]*+\n(?:\1[^\n]*+\n)*+")
"""Whole lines in a row that carry one time and one stream: what the supervisor read at once."""

_NAME = re.compile(r"rank-(\d{1,6})\.log(?:\.(\d{1,6}))?")


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
    stream = line[_FLAG_AT - 7 : _FLAG_AT - 1]
    flag = line[_FLAG_AT : _FLAG_AT + 1]
    if stream not in (b"stdout", b"stderr") or flag not in (b"F", b"P"):
        return None
    at = line[: _FLAG_AT - 8].decode("ascii", "replace")
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


def find_ranks(directory: Path) -> list[int]:
    """Ranks that have a log here, ascending."""
    return sorted({rank for rank, _, _ in _log_files(directory)})


def _log_files(directory: Path) -> list[tuple[int, int, os.DirEntry[str]]]:
    """Rank, rotation number (0 is the newest) and entry of each log file."""
    try:
        with os.scandir(directory) as entries:
            found = [(entry, _NAME.fullmatch(entry.name)) for entry in entries]
    except OSError:
        return []
    return [(int(name[1]), int(name[2] or 0), entry) for entry, name in found if name]


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
        paths = self._ordered()
        left = lines
        for path in reversed(paths):
            offset, found = _tail_offset(path, left)
            left -= found
            if left <= 0 or path == paths[0]:
                self._open(path, offset)
                return

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

    def _ordered(self) -> list[Path]:
        found = [
            (-number, entry.path)
            for rank, number, entry in _log_files(self._directory)
            if rank == self._rank
        ]
        return [Path(path) for _, path in sorted(found)]

    def _open_next(self) -> bool:
        """Open the file after the one read last, or the oldest that is left."""
        paths = self._ordered()
        for position, path in enumerate(paths):
            try:
                if path.stat().st_ino == self._inode:
                    return position + 1 < len(paths) and self._open(paths[position + 1], 0)
            except OSError:
                continue
        return bool(paths) and self._open(paths[0], 0)

    def _open(self, path: Path, offset: int) -> bool:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        self.close()
        self._handle, self._offset, self._inode = handle, offset, os.fstat(handle).st_ino
        return True


def _tail_offset(path: Path, lines: int) -> tuple[int, int]:
    """Where the last lines of a file begin, and how many lines lie behind that place."""
    block = 64 * 1024
    with path.open("rb") as file:
        end = position = file.seek(0, os.SEEK_END)
        while True:
            position = max(0, position - block)
            file.seek(position)
            data = file.read(end - position)
            begin = 0 if position == 0 else data.find(b"\n") + 1
            records = [one + b"\n" for one in data[begin:].split(b"\n")[:-1]]
            ends = [record[_FLAG_AT : _FLAG_AT + 1] == b"F" for record in records]
            if position == 0 or sum(ends) > lines:
                break
            block *= 2
    first = _first_of_last_lines(ends, lines)
    offset = position + begin + sum(map(len, records[:first]))
    return offset, sum(ends[first:])


def _first_of_last_lines(ends: Sequence[bool], lines: int) -> int:
    """Index of the first record of the last lines, given which records end a line.

    An unfinished line at the end counts as a line.
    """
    if lines <= 0:
        return len(ends)
    left = lines + (1 if ends and ends[-1] else 0)
    for position in range(len(ends) - 1, -1, -1):
        left -= ends[position]
        if left <= 0:
            return position + 1
    return 0


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
        while records := log.read():
            yield from records
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
    return records[_first_of_last_lines([one.ends_line for one in records], lines) :]
