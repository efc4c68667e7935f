"""Prints the output of jobs: byte for byte, or line by line with a prefix, a time, or escapes."""

from __future__ import annotations

import re
import sys
from typing import BinaryIO

from mlsched.api.logs import Record

LINE_BYTES_MAX = 1 << 20
"""Parts of a line are held back until it ends, or is this long."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escape_controls(data: bytes) -> bytes:
    """Bytes of a line in which C0 and C1 controls are shown and not obeyed: ``^[`` for escape.

    A carriage return before the end of the line is left out: it is what other systems end lines
    with. Bytes that are not UTF-8 become U+FFFD.
    """
    text = data.removesuffix(b"\r").decode(errors="replace")
    return _CONTROL.sub(_caret, text).encode()


def _caret(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"^{chr(code ^ 64)}" if code < 128 else f"\\x{code:02x}"


class Printer:
    """Writes records to the standard streams.

    Args:
        split: Write standard error to standard error; otherwise all goes to standard output.
        timestamps: Begin each line with its time.
        escape: Show control characters instead of sending them to the terminal.
        prefixed: Lines will get prefixes, so parts of a line are held back until it ends.
    """

    def __init__(
        self,
        *,
        split: bool,
        timestamps: bool = False,
        escape: bool = False,
        prefixed: bool = False,
    ) -> None:
        self._split = split
        self._timestamps = timestamps
        self._escape = escape
        self.by_line = timestamps or escape or prefixed
        """Whether it needs a record for each line."""
        self._parts: dict[tuple[str, int, str], bytes] = {}
        self._last: BinaryIO | None = None

    def print(self, record: Record, prefix: str = "") -> None:
        """Write a record; ``prefix`` also tells apart whose line it is a part of."""
        stream = self._stream_of(record.stream)
        if not self.by_line:
            stream.write(record.raw)
            return
        key = (prefix, record.rank, record.stream)
        data = self._parts.pop(key, b"") + record.data
        if record.ends_line or len(data) > LINE_BYTES_MAX:
            self._write_line(stream, prefix, record.at, data)
        else:
            self._parts[key] = data

    def flush(self) -> None:
        """Hand over what was written."""
        for stream in (sys.stdout.buffer, sys.stderr.buffer):
            stream.flush()

    def finish(self) -> None:
        """Write lines that never ended, and flush."""
        for (prefix, _, name), data in self._parts.items():
            self._write_line(self._stream_of(name), prefix, "", data)
        self._parts.clear()
        self.flush()

    def _stream_of(self, name: str) -> BinaryIO:
        error = self._split and name == "stderr"
        stream: BinaryIO = sys.stderr.buffer if error else sys.stdout.buffer
        if self._last is not None and self._last is not stream:
            self._last.flush()
        self._last = stream
        return stream

    def _write_line(self, stream: BinaryIO, prefix: str, at: str, data: bytes) -> None:
        shown = escape_controls(data) if self._escape else data
        head = f"{prefix}{at} " if self._timestamps and at else prefix
        stream.write(head.encode() + shown + b"\n")
