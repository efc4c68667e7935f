"""Output of a job cannot act on the terminal that shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.local.terminals import printable


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("gr\u00fc\u00dfe \U0001f600".encode(), "gr\u00fc\u00dfe \U0001f600"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b"over\rwritten", "over\\x0dwritten"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\xc2\x9b31m", "\\x9b31m"),
        ("a\u202eb".encode(), "a\\u202eb"),
        (b"\x00\x7f", "\\x00\\x7f"),
    ],
)
def test_what_moves_a_cursor_is_shown_instead(data, expected):
    assert printable(data) == expected


def test_colours_pass_when_they_may():
    assert printable(b"\x1b[1;31mred\x1b[0m", colours=True) == "\x1b[1;31mred\x1b[0m"
    assert printable(b"\x1b[1;31mred") == "\\x1b[1;31mred"
    assert printable(b"\x1b[2J\x1b[6n", colours=True) == "\\x1b[2J\\x1b[6n"


@given(st.binary())
def test_nothing_else_than_newline_and_tab_is_left_of_controls(data):
    assert not any(ord(one) < 32 and one not in "\n\t" for one in printable(data))
    assert "\x7f" not in printable(data)
