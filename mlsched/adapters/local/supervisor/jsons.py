"""JSON in and out without the package ``json``, whose regular expressions cost 15 ms to import.

The C scanner below is the one that ``json`` itself calls; where an interpreter lacks it, ``json``
is used and only time is lost.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _json

    fast: Any = _json
except ImportError:
    fast = None


class _Rules:
    """What the scanner asks of its context; the values of ``json.JSONDecoder``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def loads(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: not JSON.
    """
    if fast is None:
        import json

        return json.loads(text)
    text = text.strip()
    try:
        value, end = fast.make_scanner(_Rules)(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("not JSON: something follows the value")
    return value


def _quote(text: str) -> str:
    if fast is None:
        import json

        return json.dumps(text)
    quoted: str = fast.encode_basestring_ascii(text)
    return quoted


def dumps(value: Any) -> str:
    """The JSON text of None, booleans, integers, strings, and lists and dicts of them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, dict):
        pairs = (f"{_quote(key)}: {dumps(one)}" for key, one in value.items())
        return "{" + ", ".join(pairs) + "}"
    return "[" + ", ".join(dumps(one) for one in value) + "]"
