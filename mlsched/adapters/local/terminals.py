"""Bytes that a job printed, made safe for a terminal.

Source: fault F40 of the reliability catalogue; ECMA-48 for control sequences; Unicode's bidi
controls.
"""

from __future__ import annotations

import re

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
_ESCAPED = re.compile(_CONTROL)
_COLOURS_ESCAPED = re.compile(f"\x1b\\[[0-9;]{{0,32}}m|{_CONTROL}")


def printable(data: bytes, *, colours: bool = False) -> str:
    r"""Text of what a job printed, safe for a terminal.

    Control characters other than newline and tab, and characters that change the direction of
    text, are shown as ``\x1b`` and the like, so that output cannot move the cursor, rewrite what
    stands above or answer in the user's name. Bytes that are no UTF-8 are shown as ``\xff``.

    Args:
        data: Output as it was written.
        colours: Let colour sequences through (``ESC [ ... m``).
    """
    text = data.decode("utf-8", "backslashreplace")
    return (_COLOURS_ESCAPED if colours else _ESCAPED).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    if len(found[0]) > 1:
        return found[0]
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
