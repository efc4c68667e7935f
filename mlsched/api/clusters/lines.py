"""From the lines that a kubelet sends to records as they lie on a machine. No I/O.

A kubelet sends ``TIME TEXT`` lines; `mlsched.api.logs` reads ``TIME stdout F TEXT``. A stream that
broke is asked for again from the second of its last line on, since the API knows whole seconds
only, and what was there before is left out. What a kubelet says itself has no time, and is no place
to go on from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

_LINE = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) ", re.MULTILINE)
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[-+]\d\d:\d\d)")
_SECOND_AT = len("2026-11-26T13:00:00")
_TIME_BYTES = len("2026-11-26T13:00:00.123456789Z")


class LineJoiner:
    """Turns the bytes of one container's log into records, through reconnections.

    Args:
        stream: ``stdout`` or ``stderr``: what the records say.
    """

    def __init__(self, stream: str = "stdout") -> None:
        self._head = b"\\1 " + stream.encode() + b" F "
        self._rest = b""
        self._second = b""
        self._recent: list[int] = []
        """Hashes of the lines of that second, in order: what a new stream begins with again."""
        self._expected: list[int] = []
        self._at = b"1970-01-01T00:00:00.000000000Z"
        """When the last line was written: what has no time gets this one."""
        self._words: bytes | None = None
        """What the kubelet said last: it says it again in each new stream."""

    @property
    def since(self) -> str:
        """From when on to ask again; empty for from the beginning."""
        return f"{self._second.decode()}Z" if self._second else ""

    def reconnect(self) -> None:
        """A new stream begins, of lines from ``since`` on."""
        self._rest = b""
        self._expected = list(reversed(self._recent))

    def feed(self, chunk: bytes) -> bytes:
        """The records of the lines that are whole now and new."""
        data = self._rest + chunk
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        return self._convert(data[:end])

    def finish(self) -> bytes:
        """The record of a last line that has no end, when the log has ended."""
        rest, self._rest = self._rest, b""
        return self._convert(rest + b"\n") if rest else b""

    def _convert(self, data: bytes) -> bytes:
        """The records of whole lines, without those that were there before."""
        raw = data.split(b"\n")[:-1]
        lines = list(map(_normal, raw))
        if self._expected or b"" in lines:
            lines = list(self._sift(raw, lines))
        else:
            self._note(lines)
        whole = b"".join(line + b"\n" for line in lines)
        return _LINE.sub(self._head, whole)

    def _sift(self, raw: Sequence[bytes], lines: Sequence[bytes]) -> Iterator[bytes]:
        """Lines that are new, and words of the kubelet itself, which have no time."""
        for text, line in zip(raw, lines, strict=True):
            if line:
                if not self._is_expected(line):
                    self._note([line])
                    yield line
            elif text != self._words:
                self._words = text
                yield self._at + b" " + text

    def _is_expected(self, line: bytes) -> bool:
        """Whether it was there before: at most those that are expected, in order."""
        if not self._expected:
            return False
        if hash(line) == self._expected.pop():
            return True
        self._expected = []
        return False

    def _note(self, lines: list[bytes]) -> None:
        if not lines:
            return
        self._at = lines[-1][:_TIME_BYTES]
        last = self._at[:_SECOND_AT]
        begin = len(lines)
        while begin and lines[begin - 1][:_SECOND_AT] >= last:
            begin -= 1
        if last != self._second or begin:
            self._second, self._recent = last, []
        self._recent.extend(map(hash, lines[begin:]))


def _normal(line: bytes) -> bytes:
    """The line with its time in UTC and nine places, so that all times sort as text.

    Empty for one without a time, which no job wrote: a kubelet puts its own trouble into the log.
    """
    if line[29:31] == b"Z ":
        return line
    stamp, _, text = line.partition(b" ")
    found = _STAMP.fullmatch(stamp)
    try:
        moment = datetime.fromisoformat((found[1] + found[3]).decode()) if found else None
    except ValueError:
        moment = None
    if found is None or moment is None:
        return b""
    fraction = (found[2] or b".")[1:10].ljust(9, b"0")
    at = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    return at.encode() + fraction + b"Z " + text
