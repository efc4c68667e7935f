"""Ticks of cron expressions, above all on the two days a year when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cronsim import CronSim

from mlsched.adapters import crons
from mlsched.adapters.crons import due_ticks, next_tick
from mlsched.errors import SpecError


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def told(ticks: list[int]) -> list[str]:
    return [datetime.fromtimestamp(tick / 1000, UTC).strftime("%d %H:%M") for tick in ticks]


def test_the_next_tick_is_strictly_later() -> None:
    noon = ms("2026-11-26T12:00:00+00:00")
    assert told([next_tick("0 12 * * *", "UTC", noon)]) == ["27 12:00"]


def test_due_ticks_are_those_after_the_last_one_up_to_now() -> None:
    found = due_ticks("*/20 * * * *", "UTC", ms("2026-11-26T12:00Z"), ms("2026-11-26T13:00Z"))
    assert told(found) == ["26 12:20", "26 12:40", "26 13:00"]


def test_a_time_in_the_gap_runs_once_right_after_it() -> None:
    found = due_ticks(
        "30 2 * * *", "America/New_York", ms("2026-03-08T05:00Z"), ms("2026-03-09T05:00Z")
    )
    assert told(found) == ["08 07:00"]


def test_a_time_that_comes_twice_runs_once_at_the_first() -> None:
    found = due_ticks(
        "30 1 * * *", "America/New_York", ms("2026-11-01T04:00Z"), ms("2026-11-02T04:00Z")
    )
    assert told(found) == ["01 05:30"]


def test_an_interval_goes_on_through_the_repeated_hour() -> None:
    found = due_ticks(
        "*/30 * * * *", "America/New_York", ms("2026-11-01T05:00Z"), ms("2026-11-01T07:00Z")
    )
    assert told(found) == ["01 05:30", "01 06:00", "01 06:30", "01 07:00"]


def test_presets_are_read() -> None:
    assert told([next_tick("@daily", "UTC", ms("2026-11-26T12:00Z"))]) == ["27 00:00"]


@pytest.mark.parametrize(
    ("cron", "zone", "word"),
    [
        ("nonsense", "UTC", "cron"),
        ("61 * * * *", "UTC", "cron"),
        ("* * * * * *", "UTC", "it has 6 fields"),
        ("0 0 31 2 *", "UTC", "cron"),
        ("0 0 * * *", "Mars/Olympus", "timeZone"),
        ("0 0 * * *", "../../etc/passwd", "timeZone"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(cron: str, zone: str, word: str) -> None:
    with pytest.raises(SpecError, match=word):
        next_tick(cron, zone, 0)


def test_a_tick_is_never_before_what_it_comes_after() -> None:
    """In the hour that comes twice, the second time."""
    second = ms("2026-11-01T06:10Z")
    assert told([next_tick("30 1 * * *", "America/New_York", second)]) == ["02 06:30"]
    assert due_ticks("30 1 * * *", "America/New_York", second, second + 60_000) == []


def test_an_expression_that_is_never_due_is_told() -> None:
    with pytest.raises(SpecError, match="cron"):
        next_tick("0 0 */15 * MON#2", "UTC", 0)


class Counting(CronSim):
    """Counts the ticks that were computed."""

    computed = 0

    def __next__(self) -> datetime:
        Counting.computed += 1
        return super().__next__()


@pytest.mark.parametrize(("cron", "days"), [("* * * * *", 90), ("0 * * * *", 4_000)])
def test_a_long_downtime_costs_no_more_than_the_newest_ticks(
    monkeypatch: pytest.MonkeyPatch, cron: str, days: int
) -> None:
    monkeypatch.setattr(crons, "CronSim", Counting)
    monkeypatch.setattr(Counting, "computed", 0)
    until = ms("2026-11-26T12:00Z")
    found = due_ticks(cron, "Europe/Paris", until - days * 86_400_000, until)
    assert (len(found), found[-1]) == (crons.TICKS_MAX, until)
    assert found == sorted(set(found))
    assert Counting.computed < 5 * crons.TICKS_MAX


def test_rare_ticks_of_a_long_downtime_are_all_found() -> None:
    found = due_ticks("0 0 29 2 *", "UTC", ms("1990-01-01T00:00Z"), ms("2026-11-26T12:00Z"))
    assert len(found) == 9
