"""Plain values as JSON text."""

from __future__ import annotations

from typing import Any

import msgspec


def to_json(value: Any) -> str:
    """Indented JSON; non-ASCII letters as they are."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def to_json_line(value: Any) -> str:
    """JSON on one line, for streams of events."""
    return msgspec.json.encode(value).decode()
