"""Jobs in notebooks: nothing of a job's own text is ever markup."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mlsched.api.html import job_html, progress_html
from mlsched.api.texts import progress_share, progress_text

EVIL = "<script>alert(1)</script>\"'&"


def test_state_reason_and_progress_are_shown():
    shown = job_html(
        {
            "name": "train-1",
            "state": "RUNNING",
            "reason": {"code": "Running", "message": "on 2 GPUs"},
            "progress": {"done": 30, "total": 120, "unit": "steps", "note": "loss 0.3"},
            "gpus": ["GPU-1"],
            "attempt": 2,
            "exit_code": None,
        }
    )
    for word in ("train-1", "RUNNING", "on 2 GPUs", "30/120 steps, loss 0.3", "25%", "GPU-1"):
        assert word in shown


def test_everything_that_a_job_says_is_escaped():
    shown = job_html(
        {
            "name": EVIL,
            "state": EVIL,
            "reason": {"code": EVIL, "message": EVIL},
            "progress": {"done": EVIL, "total": EVIL, "unit": EVIL, "note": EVIL},
            "gpus": [EVIL],
            "exit_code": EVIL,
            "attempt": 1,
        }
    )
    assert "<script" not in shown
    tags = set(re.findall(r"<(/?\w+)", shown))
    assert tags <= {"div", "/div", "b", "/b", "span", "/span", "table", "/table", "tr", "/tr",
                    "td", "/td"}  # fmt: skip


@given(st.dictionaries(st.sampled_from(["done", "total", "unit", "note"]),
                       st.none() | st.booleans() | st.integers() | st.floats() | st.text()
                       | st.lists(st.integers(), max_size=2)))  # fmt: skip
def test_whatever_a_job_wrote_as_progress_can_be_shown(progress):
    shown = progress_html(progress)
    assert not re.search(r"<(?!/?span)", shown)
    share = progress_share(progress)
    assert share is None or 0 <= share <= 1


def test_a_count_without_a_total_has_no_bar():
    assert progress_text({"done": 1500.0, "total": None, "unit": "rows"}) == "1,500 rows"
    assert "<span" not in progress_html({"done": 3})
