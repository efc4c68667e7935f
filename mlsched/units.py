"""Quantities as integers: bytes, milli-CPU, seconds, milliseconds; parsing and printing.

No float ever decides whether a job fits. Text is read by the rules of Kubernetes quantities for
memory and CPU, and by Slurm's and everyday rules for time.
"""

from __future__ import annotations

import re
from decimal import Decimal

from mlsched.errors import SpecError

MILLI = 1000
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kKmMgGtTpP]?)(i?)[bB]?$")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SPAN_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

SIZE_BYTES_MAX = 1 << 60
SPAN_S_MAX = 100 * 365 * 86_400


def parse_bytes(text: str | int, *, what: str = "memory") -> int:
    """Bytes from ``64Gi``, ``64G``, ``64GB``, ``512M`` or a plain number of bytes.

    ``G`` and ``Gi`` both mean 2**30, as in Slurm and in what people mean on a command line.

    Raises:
        SpecError: not a size, negative, zero or beyond 2**60.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise _bad_size(text, what)
    found = _SIZE.match(text.strip()) if isinstance(text, str) else None
    if isinstance(text, int):
        size = text
    elif found is None:
        raise _bad_size(text, what)
    else:
        size = int(Decimal(found[1]) * (1 << (10 * _POWERS[found[2].lower()])))
    if not 0 < size <= SIZE_BYTES_MAX:
        raise _bad_size(text, what)
    return size


def _bad_size(found: object, what: str) -> SpecError:
    return SpecError(
        f"{what}: expected a size such as 512M or 64G, found {str(found)[:60]!r}.",
        "Write a number with a unit: K, M, G or T.",
    )


def format_bytes(size_bytes: int) -> str:
    """``65536`` as ``64 KiB``: three digits, a binary unit."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            digits = 0 if unit == "B" or size >= 100 else 1
            return f"{size:.{digits}f} {unit}".replace(".0 ", " ")
        size /= 1024
    raise AssertionError("unreachable")


_SPAN_HINT = "A bare number is minutes, as in Slurm."


def parse_span_s(text: str | int, *, what: str = "time", hint: str = _SPAN_HINT) -> int:
    """Seconds from ``90s``, ``2h``, ``1h30m``, ``1-00:00:00``, ``HH:MM:SS`` or a number.

    Slurm's grammar is kept for what Slurm users type: a bare number is minutes, ``MM:SS``,
    ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` and ``D-HH:MM:SS``. An int (not text) is seconds.

    Raises:
        SpecError: not a time, zero, or beyond a hundred years.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise _bad_span(text, what, hint)
    span_s = text if isinstance(text, int) else _span_text_s(text.strip(), what, hint)
    if not 0 < span_s <= SPAN_S_MAX:
        raise _bad_span(text, what, hint)
    return span_s


def _span_text_s(text: str, what: str, hint: str) -> int:
    if text.isdecimal() and len(text) < 12:
        return int(text) * 60
    parts = list(_SPAN.finditer(text))
    if parts and "".join(part[0] for part in parts) == text.replace(" ", ""):
        total_ms = sum(Decimal(part[1]) * _SPAN_MS[part[2]] for part in parts)
        return max(1, int(total_ms / 1000)) if total_ms > 0 else 0
    slurm = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,8})(?::(\d{1,8}))?(?::(\d{1,8}))?", text)
    if slurm is None:
        raise _bad_span(text, what, hint)
    days, first, second, third = (
        int(part) if part is not None else None for part in slurm.groups()
    )
    first = first or 0
    if days is not None:
        return days * 86_400 + first * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return first * 3600 + (second or 0) * 60 + third
    return first * 60 + (second or 0)


def _bad_span(found: object, what: str, hint: str) -> SpecError:
    return SpecError(
        f"{what}: expected a time such as 90s, 2h, 1h30m or 1-00:00:00, found {str(found)[:60]!r}.",
        hint,
    )


def format_span(span_s: float) -> str:
    """Seconds as ``4.2s``, ``3m12s``, ``2h05m`` or ``3d04h``."""
    if span_s < 0:
        return "0s"
    if span_s < 60:
        return f"{span_s:.1f}s" if span_s < 10 else f"{span_s:.0f}s"
    whole = int(span_s)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def parse_milli_cpus(text: str | int | float, *, what: str = "cpus") -> int:
    """Milli-CPU from ``2``, ``0.5`` or ``500m``.

    Raises:
        SpecError: not a number of CPUs, or not above zero.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(m?)", str(text).strip())
    if found is None or isinstance(text, bool):
        raise _bad_cpus(text, what)
    milli = int(Decimal(found[1]) * (1 if found[2] else MILLI))
    if milli <= 0:
        raise _bad_cpus(text, what)
    return milli


def _bad_cpus(found: object, what: str) -> SpecError:
    return SpecError(
        f"{what}: expected a number such as 4, 0.5 or 500m, found {str(found)[:60]!r}."
    )


def format_cpus(milli_cpus: int) -> str:
    """``1500`` as ``1.5``."""
    return f"{milli_cpus / MILLI:g}"


def count_cpus(milli_cpus: int) -> str:
    """``1000`` as ``1 CPU``, all else as ``1.5 CPUs``."""
    return f"{format_cpus(milli_cpus)} CPU{'' if milli_cpus == MILLI else 's'}"
