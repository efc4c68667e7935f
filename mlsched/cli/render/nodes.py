"""GPUs of a cluster as a table: one row for each kind of GPU on each node."""

from __future__ import annotations

from typing import Any

from mlsched.cli.render.tables import format_table, terminal_width
from mlsched.cli.render.texts import one_line
from mlsched.cli.session import Session
from mlsched.units import format_bytes

JsonObject = dict[str, Any]
HEADERS = ("NODE", "MODEL", "MEMORY", "LAYER", "TOTAL", "FREE", "HELD BY")
HOLDERS_SHOWN_MAX = 5


def print_nodes(session: Session, found: JsonObject) -> None:
    """Print what the operation ``gpus`` told of a cluster; what could not be read is noted."""
    rows = found["nodes"]

    def text() -> str:
        if not rows:
            return ""
        return format_table(
            HEADERS,
            [_row(row, wide=session.output == "wide") for row in rows],
            width=terminal_width(),
            color=session.has_color(),
            heads=session.headers,
        )

    session.emit(rows, text, sorted({row["node"] for row in rows}))
    for note in found["notes"]:
        session.tell(f"note: {note}.")
    if not rows and not session.is_data:
        session.tell(f"no node of {session.context} offers GPUs.")


def _row(row: JsonObject, *, wide: bool) -> list[str]:
    broken = row["capacity"] - row["total"]
    total = f"{row['total']}" + (f" ({broken} not healthy)" if broken > 0 else "")
    return [
        row["node"],
        f"{row['model']} {row['profile']}".strip(),
        format_bytes(row["memory_bytes"]) if row["memory_bytes"] else "-",
        row["layer"] or "-",
        total,
        str(row["free"]),
        _holders(row["holders"], None if wide else HOLDERS_SHOWN_MAX),
    ]


def _holders(holders: list[JsonObject], shown_max: int | None) -> str:
    texts = [f"{one_line(one['name'])}: {one['gpus']}" for one in holders[:shown_max]]
    more = len(holders) - len(texts)
    return ", ".join([*texts, *([f"{more} more"] if more else [])]) or "-"
