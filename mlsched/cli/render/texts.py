"""Text that a terminal shows and never obeys, and words for quantities and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from mlsched.units import format_span

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls but tab and newline, line separators, and marks that turn text round."""


def printable(text: str) -> str:
    """Text in which control characters are spelt out, as Python does.

    Letters of every script stay; half of a surrogate pair does not.
    """
    shown = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """The same on one line."""
    if text.isascii() and text.isprintable():
        return text.strip()
    return " ".join(printable(text).split())


def parse_time(text: str) -> datetime:
    """An RFC 3339 time of the service."""
    return datetime.fromisoformat(text)


def format_since(text: str | None, now: datetime) -> str:
    """How long ago something was: ``3m12s``; ``-`` for never."""
    if not text:
        return "-"
    return format_span((now - parse_time(text)).total_seconds())


def format_local(text: str | None) -> str:
    """A time on the user's clock, to the second, with its zone; ``-`` for never."""
    if not text:
        return "-"
    return parse_time(text).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").strip()


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)
