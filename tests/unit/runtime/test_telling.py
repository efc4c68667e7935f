"""The log of a process that runs in a pod."""

from __future__ import annotations

import io
import re
from typing import NoReturn

from mlsched.runtime.telling import tell_into


def test_each_line_has_its_time() -> None:
    log = io.StringIO()
    tell_into(log)("a word")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z a word\n", log.getvalue())


def test_a_log_that_takes_nothing_keeps_nobody_from_going_on() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> NoReturn:
            raise OSError(28, "No space left on device")

    tell_into(Full())("a word")
    closed = io.StringIO()
    closed.close()
    tell_into(closed)("a word")
