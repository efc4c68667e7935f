"""What jobs tell of themselves is shown, whatever it is."""

from __future__ import annotations

import pytest

from mlsched.api.html import job_html
from mlsched.api.texts import progress_share, progress_text


@pytest.mark.parametrize(
    ("told", "share", "text"),
    [
        ({"done": 120, "total": 400, "unit": "steps", "note": "ok"}, 0.3, "120/400 steps, ok"),
        ({"done": 7}, None, "7"),
        ({"done": 7, "total": 0}, None, "7/0"),
        ({"done": 1e300, "total": 1}, 1.0, f"{1e300:,.0f}/1"),
        ({"done": 10**400, "total": 2}, None, "beyond 1e308/2"),
        ({"done": 1, "total": 10**400}, 0.0, "1/beyond 1e308"),
        ({"done": "nan", "total": 4}, None, "nan/4"),
        ({"done": [1], "total": {}}, None, "[1]/{}"),
        ({}, None, "None"),
    ],
)
def test_progress(told, share, text):
    assert progress_share(told) == share
    assert progress_text(told) == text
    assert text[:40] in job_html({"name": "a", "state": "RUNNING", "progress": told | {"x": 1}})
