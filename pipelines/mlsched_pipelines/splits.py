"""Splits: the fixed pieces of the input, one task each, and the pin that notices a changed file.

A source cuts its input once, when the plan is made. The cut depends on the input and the source's
options alone, never on the number of workers, so the tasks and their outputs are always the same.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from msgspec import Struct

from mlsched.errors import NotFoundError, PipelineError
from mlsched_pipelines.inputs import is_object, open_binary, open_object

Fingerprint = Literal["content", "stat"]
"""``content`` hashes every byte (about 1 GB/s a core): a file that was copied or touched is still
the same input. ``stat`` takes path, size, modification time and both ends of the file: for data too
large to read twice."""

EDGE_BYTES = 64 << 10
READ_BYTES = 1 << 20


class Pin(Struct, frozen=True):
    """One input file as it was when the plan was made."""

    path: str
    size_bytes: int
    mtime_ns: int
    digest: str


class Split(Struct, frozen=True):
    """One piece of the input: bytes, row groups, record batches or rows ``start`` to ``stop``."""

    index: int
    """Position in the plan; two equal files are still two inputs."""
    pin: Pin
    start: int
    stop: int
    size_bytes: int = 0
    """Estimate of what it takes in memory."""

    def identity(self) -> str:
        """Text that is equal exactly for the same piece of the same input."""
        return f"{self.index}:{self.pin.digest}:{self.pin.size_bytes}:{self.start}:{self.stop}"


class Pruned(Struct, frozen=True):
    """What is not read, since none of its rows can pass a filter."""

    splits: int = 0
    """Whole splits."""
    rows: int = 0
    size_bytes: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.splits + other.splits,
            self.rows + other.rows,
            self.size_bytes + other.size_bytes,
        )


def pin_file(path: str | Path, fingerprint: Fingerprint) -> Pin:
    """Record what a file is now.

    Raises:
        NotFoundError: there is no such file.
        PipelineError: it cannot be read, or it changed while it was read.
    """
    if is_object(str(path)):
        return _pin_object(str(path))
    full = Path(path).absolute()
    try:
        before = full.stat()
        digest = _digest_file(full, fingerprint, before)
        after = full.stat()
    except FileNotFoundError:
        raise NotFoundError(f"There is no input file {full}.") from None
    except OSError as error:
        raise PipelineError(f"The input file {full} cannot be read: {error.strerror}.") from error
    pin = Pin(str(full), before.st_size, before.st_mtime_ns, digest)
    if (after.st_size, after.st_mtime_ns) != (pin.size_bytes, pin.mtime_ns):
        raise _changed(pin)
    return pin


def check_pin(pin: Pin) -> None:
    """The file is still the one that was planned, by size and modification time.

    Raises:
        PipelineError: it was changed, replaced or removed since.
    """
    if is_object(pin.path):
        try:
            now_object = _pin_object(pin.path)
        except NotFoundError:
            raise _changed(pin) from None
        if now_object != pin:
            raise _changed(pin)
        return
    try:
        now = Path(pin.path).stat()
    except OSError:
        raise _changed(pin) from None
    if (now.st_size, now.st_mtime_ns) != (pin.size_bytes, pin.mtime_ns):
        raise _changed(pin)


def _pin_object(address: str) -> Pin:
    store, key = open_object(address)
    try:
        size_bytes, tag = store.version(key)
    except FileNotFoundError:
        raise NotFoundError(f"There is no input file {address}.") from None
    return Pin(address, size_bytes, 0, blake2b(tag.encode(), digest_size=16).hexdigest())


def _changed(pin: Pin) -> PipelineError:
    return PipelineError(
        f"The input file {pin.path} changed after the plan was made ({pin.size_bytes} bytes then).",
        "Make the plan again; write inputs under a new name and rename them into place.",
    )


def _digest_file(path: Path, fingerprint: Fingerprint, stat: os.stat_result) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        if fingerprint == "content":
            while data := file.read(READ_BYTES):
                digest.update(data)
            return digest.hexdigest()
        digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(0, stat.st_size - EDGE_BYTES))
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def cut_lines(path: str, first: int, split_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of about ``split_bytes`` from ``first`` to the end that begin and end at a line.

    Cost: one seek and one line read for each range.
    """
    ranges: list[tuple[int, int]] = []
    with open_binary(path) as file:
        end = file.seek(0, os.SEEK_END)
        start = first
        while start < end:
            file.seek(min(start + split_bytes, end) - 1)
            file.readline()
            stop = file.tell()
            ranges.append((start, stop))
            start = stop
    return ranges


def count_lines(path: str, start: int, stop: int) -> int:
    """Line ends in a byte range of a file; only asked when a row is to be named in an error."""
    lines = 0
    with open_binary(path) as file:
        file.seek(start)
        while start < stop and (data := file.read(min(READ_BYTES, stop - start))):
            lines += data.count(b"\n")
            start += len(data)
    return lines


def count_blank_lines(path: str, start: int, stop: int) -> int:
    """Lines of a byte range that hold nothing, which are no rows."""
    blank = 0
    with open_binary(path) as file:
        file.seek(start)
        while start < stop and (line := file.readline(stop - start)):
            blank += not line.strip(b"\r\n")
            start += len(line)
    return blank
