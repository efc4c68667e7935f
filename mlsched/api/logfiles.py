"""The files of a rank's log: which there are, in what order, and where their last lines begin.

The supervisor rotates them meanwhile: ``rank-R.log`` becomes ``.1``, ``.1`` becomes ``.2``. So a
name says nothing for long; everything here works on open files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

FLAG_AT = len("2026-11-26T13:00:00.123456789Z stdout ")
"""Where a record says whether it ends a line."""

OPEN_TRIES = 10
"""Scans until one has met no rotation; more than one in a row is rare."""

_NAME = re.compile(r"rank-(\d{1,6})\.log(?:\.(\d{1,6}))?")
_BLOCK_BYTES = 64 * 1024


def find_ranks(directory: Path) -> list[int]:
    """Ranks that have a log here, ascending."""
    return sorted({rank for rank, _ in _list_names(directory)})


def _list_names(directory: Path) -> list[tuple[int, int]]:
    """Rank and rotation number (0 is the newest) of each log file."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return []
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    return [(int(match[1]), int(match[2] or 0)) for match in found]


def open_files(directory: Path, rank: int) -> list[int]:
    """Handles of all files of a rank's log, the oldest first; the caller closes them."""
    newest = directory / f"rank-{rank}.log"
    handles: list[int] = []
    for _ in range(OPEN_TRIES):
        close_all(handles)
        handles = _scan(directory, rank)
        with contextlib.suppress(OSError):
            if not handles or newest.stat().st_ino == os.fstat(handles[-1]).st_ino:
                break
    return handles


def _scan(directory: Path, rank: int) -> list[int]:
    """Open from the newest to the oldest: a file that is renamed meanwhile is met again."""
    numbers = [number for other, number in _list_names(directory) if other == rank]
    found: dict[int, int] = {}
    for number in range(max(numbers, default=-2) + 2):
        path = directory / (f"rank-{rank}.log.{number}" if number else f"rank-{rank}.log")
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        if found.setdefault(os.fstat(handle).st_ino, handle) != handle:
            os.close(handle)
    return list(reversed(found.values()))


def close_all(handles: Iterable[int]) -> None:
    """Close files."""
    for handle in handles:
        os.close(handle)


def find_tail(handle: int, lines: int) -> tuple[int, int]:
    """Where the last lines of a file begin, and how many lines lie behind that place.

    An unfinished line at the end counts as a line.
    """
    size = _BLOCK_BYTES
    end = os.fstat(handle).st_size
    while True:
        position = max(0, end - size)
        data = os.pread(handle, end - position, position)
        begin = 0 if position == 0 else data.find(b"\n") + 1
        records = [one + b"\n" for one in data[begin:].split(b"\n")[:-1]]
        ends = [record[FLAG_AT : FLAG_AT + 1] == b"F" for record in records]
        if position == 0 or sum(ends) > lines:
            break
        size *= 2
    first = first_of_last_lines(ends, lines)
    offset = position + begin + sum(map(len, records[:first]))
    is_unfinished = first < len(ends) and not ends[-1]
    return offset, sum(ends[first:]) + is_unfinished


def first_of_last_lines(ends: Sequence[bool], lines: int) -> int:
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
