"""Ticks of cron expressions in a time zone, by cronsim: Debian's rule at the two days of a change.

At a gap a fixed time runs once, right after it; at a fold it runs once, at the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from mlsched.errors import SpecError

TICKS_MAX = 10_000
"""Missed ticks that one call looks at; more than a year of hourly ones."""

_SPAN_MS = 3_600_000
"""How far back they are looked for at first: it is doubled until there are enough."""

FIELDS = 5
"""Minute, hour, day, month, weekday; a sixth would count seconds."""

PRESETS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def next_tick(cron: str, time_zone: str, after_ms: int) -> int:
    """The first tick after an instant; both in milliseconds since 1970.

    Raises:
        SpecError: not a cron expression, or not a time zone.
    """
    for tick_ms in _ticks(cron, time_zone, after_ms):
        return tick_ms
    raise SpecError(f"cron: {cron[:60]!r} is never due.")


def due_ticks(cron: str, time_zone: str, after_ms: int, until_ms: int) -> list[int]:
    """Ticks after one instant up to and including another, oldest first, the newest 10,000."""
    span_ms = _SPAN_MS
    while True:
        begin_ms = max(after_ms, until_ms - span_ms)
        ticks = _ticks(cron, time_zone, begin_ms)
        found = list(takewhile(lambda tick_ms: tick_ms <= until_ms, ticks))
        if begin_ms == after_ms or len(found) >= TICKS_MAX:
            return found[-TICKS_MAX:]
        span_ms *= 2


def _ticks(cron: str, time_zone: str, after_ms: int) -> Iterator[int]:
    """Ticks after an instant. The library forgets which of two equal hours it was started in."""
    found = (int(tick.timestamp() * 1000) for tick in _simulate(cron, time_zone, after_ms))
    return (tick_ms for tick_ms in found if tick_ms > after_ms)


def _simulate(cron: str, time_zone: str, after_ms: int) -> CronSim:
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SpecError(
            f"timeZone: {time_zone[:60]!r} is not a time zone.",
            "Write a name such as Europe/Paris.",
        ) from error
    after = datetime.fromtimestamp(after_ms / 1000, UTC).astimezone(zone)
    fields = PRESETS.get(cron.strip(), cron)
    try:
        if len(fields.split()) != FIELDS:
            raise CronSimError(f"it has {len(fields.split())} fields")
        return CronSim(fields, after)
    except CronSimError as error:
        raise SpecError(
            f"cron: {cron[:60]!r} is not a cron expression: {error}.",
            "Write five fields, such as '30 2 * * *', or @daily.",
        ) from error
