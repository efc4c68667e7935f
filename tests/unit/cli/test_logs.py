"""Times and ranks that ``mlsched logs`` takes."""

from __future__ import annotations

import pytest

from mlsched.cli.logs import _parse_since
from mlsched.errors import SpecError


def test_a_time_with_a_zone_becomes_utc():
    assert _parse_since("2026-11-26T15:00:00+02:00") == "2026-11-26T13:00:00.000000"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_end_of_the_calendar_is_refused(text):
    with pytest.raises(SpecError, match="--since"):
        _parse_since(text)
