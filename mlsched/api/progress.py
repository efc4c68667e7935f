"""What a job says of itself: how far it is, and numbers worth keeping.

Called inside jobs, by any rank. Writes the small files that ``show``, ``top``, ``report`` and
notebooks read. Outside of a job the calls do nothing, so that code runs the same at a desk.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

PROGRESS_VARIABLE = "MLSCHED_PROGRESS_FILE"
METRICS_VARIABLE = "MLSCHED_METRICS_FILE"

PERIOD_S = 0.1
"""Progress is written at most this often, its end always: a loop may report every step."""

_written_at = -PERIOD_S
_metrics: dict[str, Any] = {}


def progress(done: float, total: float | None = None, *, unit: str = "", note: str = "") -> bool:
    """Tell how much is done; of ``total``, if that is known.

    Args:
        done: So many units are done.
        total: Of so many in all.
        unit: What is counted: ``steps``, ``rows``.
        note: A few words: the loss, the file being read.

    Returns:
        Whether it was written: not outside of a job, and not within `PERIOD_S` of the last time.
    """
    global _written_at  # noqa: PLW0603 - one clock a process
    now = time.monotonic()
    if now - _written_at < PERIOD_S and done != total:
        return False
    told = {"done": done, "total": total, "unit": unit, "note": note[:200]}
    written = _replace(os.environ.get(PROGRESS_VARIABLE), told)
    if written:
        _written_at = now
    return written


def metrics(**values: Any) -> bool:
    """Keep numbers of this job, shown by ``mlsched report``; later calls add to earlier ones.

    Args:
        values: Numbers, text, or lists of them, by name. Numbers that JSON has not, such as nan,
            become text.

    Returns:
        Whether they were written: not outside of a job.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    written = _replace(os.environ.get(METRICS_VARIABLE), _metrics | values)
    _metrics.update(values)
    return written


def _replace(path: str | None, told: dict[str, Any]) -> bool:
    """Put a JSON file in place at once, so that nobody reads half of it."""
    if not path:
        return False
    content = json.dumps(_to_plain(told))
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(target)
    except OSError:
        return False
    return True


def _to_plain(value: Any) -> Any:
    """As JSON holds it: arrays as lists, and as text what is no number there, such as nan."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, dict):
        return {_to_plain(name): _to_plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(one) for one in value]
    for name in ("tolist", "item"):
        if callable(convert := getattr(value, name, None)):
            return _to_plain(convert())
    raise TypeError(f"metrics: {type(value).__name__} is neither a number nor text.")
