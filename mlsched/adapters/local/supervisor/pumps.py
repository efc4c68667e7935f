"""The output of ranks, from pipes to files: CRI log format, a bound on size, no end on a full disk.

One record a line: ``<RFC 3339 UTC, ns> <stdout|stderr> <F|P> <bytes>``. F ends a line, P is a part
of one: a line longer than `LINE_BYTES_MAX`, one that stays unfinished for `UNFINISHED_S`, or the
last one without its newline. All records of one read carry the time of that read.
Source: the Kubernetes container runtime interface's log format.
"""

# pathlib costs more to import than all of the supervisor's own code.
# ruff: noqa: PTH105, PTH108, PTH110
from __future__ import annotations

import os
import time

LINE_BYTES_MAX = 16 * 1024
BLOCK_BYTES_MAX = 1 << 20
"""Written at once at most: 16 KiB of nothing but newlines become 700 KB of records."""

READ_BYTES = 64 * 1024
"""A pipe's default size: more is never there."""

DRAIN_READS_MAX = 64
"""Four times what the largest pipe of an ordinary user holds."""

UNFINISHED_S = 0.2
"""How long an unfinished line (a prompt, a progress bar) waits for its end before it is shown."""


class Log:
    """The log of one rank, with its rotated files ``.1`` (newest) to ``.N``.

    Args:
        path: The newest file.
        bytes_max: Size of a file at most; less than 1 MiB counts as that.
        files_max: Files at most, the newest included.

    Attributes:
        lost_bytes: Output that was not written, because the disk was full.
        written_bytes: Output that was written, also what was removed since.
        dropped_bytes: Output that rotation removed.
    """

    def __init__(self, path: str, bytes_max: int, files_max: int) -> None:
        self.lost_bytes = 0
        self.written_bytes = 0
        self.dropped_bytes = 0
        self._path = path
        self._bytes_max = max(bytes_max, BLOCK_BYTES_MAX)
        self._files_max = max(files_max, 1)
        self._handle = -1
        self._size = 0
        self._payloads = [0]
        self._open()

    def _open(self) -> None:
        try:
            self._handle = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        except OSError:
            self._handle = -1

    def write(self, records: bytes, payload_bytes: int) -> None:
        """Append whole records that carry so many bytes of output; never raises."""
        if self._size and self._size + len(records) > self._bytes_max:
            self._rotate()
        if self._handle < 0:
            self._open()
        written = 0
        try:
            if self._handle >= 0:
                written = os.write(self._handle, records)
        except OSError:
            written = 0
        if written < len(records):
            payload_bytes = self._keep_whole_records(records, written, payload_bytes)
        else:
            self._size += written
        self._payloads[0] += payload_bytes
        self.written_bytes += payload_bytes

    def _keep_whole_records(self, records: bytes, written: int, payload_bytes: int) -> int:
        """Take back a record that was cut by a full disk; returns what was kept of the output."""
        kept = records.rfind(b"\n", 0, written) + 1
        if written > kept:
            try:
                os.ftruncate(self._handle, self._size + kept)
            except OSError:
                kept = written
        self._size += kept
        lost = sum(_payload_bytes(record) for record in records[kept:].split(b"\n"))
        lost = min(lost, payload_bytes)
        self.lost_bytes += lost
        return payload_bytes - lost

    def _rotate(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        last = self._files_max - 1
        try:
            for number in range(last, 0, -1):
                older = f"{self._path}.{number}"
                newer = f"{self._path}.{number - 1}" if number > 1 else self._path
                if os.path.exists(newer):
                    os.replace(newer, older)
            if last == 0:
                os.unlink(self._path)
        except OSError:
            pass
        self._payloads.insert(0, 0)
        if len(self._payloads) > self._files_max:
            self.dropped_bytes += self._payloads.pop()
        self._size = 0
        self._open()


class Copy:
    """The file that a user asked the output to be copied to, as it is.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, append: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        self._handle = os.open(path, flags if append else flags | os.O_TRUNC, 0o666)
        self.lost_bytes = 0

    def write(self, data: bytes) -> None:
        """Append output; what cannot be written is counted. Never raises."""
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError:
            self.lost_bytes += len(data)


class Stream:
    """One pipe of one rank, read without waiting.

    Attributes:
        unfinished_at: Monotonic instant since which an unfinished line waits; None without one.
    """

    def __init__(self, handle: int, name: str, log: Log, copy: Copy | None) -> None:
        os.set_blocking(handle, False)
        self.handle = handle
        self.unfinished_at: float | None = None
        self._name = name.encode()
        self._log = log
        self._copy = copy
        self._rest = b""

    def read(self) -> bool:
        """Take what is there, at most one buffer.

        Returns:
            False when nobody can write any more; the pipe is closed then.
        """
        try:
            data = os.read(self.handle, READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            self.close()
            return False
        if self._copy is not None:
            self._copy.write(data)
        self._take(data)
        return True

    def drain(self) -> None:
        """Take what is there now, then close: a stranger may hold the pipe, and write for ever."""
        for _ in range(DRAIN_READS_MAX):
            if self.handle < 0 or not self.read():
                return
        self.close()

    def _take(self, data: bytes) -> None:
        """Write the complete lines, keep the rest."""
        data = self._rest + data
        full, part = self._prefixes()
        blocks = []
        at = 0
        while True:
            cut = data.rfind(b"\n", at, at + LINE_BYTES_MAX + 1)
            if cut >= 0:
                block = full + data[at:cut].replace(b"\n", b"\n" + full) + b"\n"
                begin, at = at, cut + 1
            elif len(data) - at > LINE_BYTES_MAX:
                block = part + data[at : at + LINE_BYTES_MAX] + b"\n"
                begin, at = at, at + LINE_BYTES_MAX
            else:
                break
            blocks.append((block, at - begin))
        self._rest = data[at:]
        if not self._rest:
            self.unfinished_at = None
        elif at or self.unfinished_at is None:
            self.unfinished_at = time.monotonic()
        if sum(len(block) for block, _ in blocks) <= BLOCK_BYTES_MAX:
            blocks = [(b"".join(block for block, _ in blocks), at)] if at else []
        for block, payload_bytes in blocks:
            self._log.write(block, payload_bytes)

    def flush(self) -> None:
        """Write the unfinished line as a part."""
        if self._rest:
            _, part = self._prefixes()
            self._log.write(part + self._rest + b"\n", len(self._rest))
        self._rest = b""
        self.unfinished_at = None

    def close(self) -> None:
        """Write what waits and close the pipe."""
        self.flush()
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _prefixes(self) -> tuple[bytes, bytes]:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        start = b"%s.%09dZ %s " % (stamp.encode(), nanoseconds, self._name)
        return start + b"F ", start + b"P "


def _payload_bytes(record: bytes) -> int:
    """Bytes of output in one record (or in the end of one) without its newline."""
    fields = record.split(b" ", 3)
    if len(fields) < 4:
        return len(record)
    return len(fields[3]) + (fields[2] == b"F")
