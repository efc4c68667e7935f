"""Tables for terminals: columns as wide as their content, the last one cut to the screen.

Our own few lines, for importing a table library takes longer than the whole command may.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Sequence

from mlsched.cli.render.texts import one_line

GAP = "  "
COLUMN_MAX = 40
"""Of all columns but the last: one long name must not push the reasons off the screen."""

_COLOURS = {
    "PENDING": "33",
    "STARTING": "36",
    "RUNNING": "36",
    "SUCCEEDED": "32",
    "FAILED": "31",
    "CANCELLED": "2",
    "PREEMPTED": "33",
    "INTERRUPTED": "33",
    "ok": "32",
    "warn": "33",
    "fail": "31",
}


def terminal_width() -> int:
    """Columns of the terminal; 0, without bound, where output is no terminal."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 0


def format_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int = 0,
    color: bool = False,
    heads: bool = True,
) -> str:
    """The table as text.

    Args:
        headers: One a column.
        rows: Cells; anything that a terminal would obey is spelt out.
        width: Columns of the screen; 0 for no bound.
        color: Colour cells that hold a state.
        heads: Whether the headers are shown.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    lines = [list(headers), *cells] if heads else cells
    if not lines:
        return ""
    last = len(headers) - 1
    widths = [
        min(COLUMN_MAX, max(text_width(line[column]) for line in lines)) for column in range(last)
    ]
    room = max(8, width - sum(widths) - len(GAP) * last) if width else 0
    return "\n".join(_format_row(line, widths, room, color=color) for line in lines)


def _format_row(line: Sequence[str], widths: Sequence[int], room: int, *, color: bool) -> str:
    shown = [_fit(cell, size, color=color) for cell, size in zip(line, widths, strict=False)]
    final = line[-1]
    shown.append(paint(cut(final, room) if room else final, final, color=color))
    return GAP.join(shown).rstrip()


def _fit(cell: str, size: int, *, color: bool) -> str:
    """A cell cut or filled up to a size."""
    if cell.isascii() and len(cell) <= size:
        return paint(cell, cell, color=color) + " " * (size - len(cell))
    text = cut(cell, size)
    return paint(text, cell, color=color) + " " * (size - text_width(text))


def paint(text: str, word: str, *, color: bool) -> str:
    """Text in the colour of a state word."""
    code = _COLOURS.get(word) if color else None
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def text_width(text: str) -> int:
    """Columns that a terminal uses: wide letters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_letter_width(one) for one in text)


def _letter_width(letter: str) -> int:
    if unicodedata.combining(letter) or letter in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, size: int) -> str:
    """At most ``size`` columns, with an ellipsis for what is missing."""
    if text_width(text) <= size:
        return text
    kept, used = "", 1
    for letter in text:
        used += _letter_width(letter)
        if used > size:
            break
        kept += letter
    return kept + "…"


def format_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    size = max((len(name) for name, _ in shown), default=0) + 1
    return "\n".join(f"{name + ':':<{size}} {value}" for name, value in shown)
