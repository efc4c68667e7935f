"""What tests of real parts share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def until() -> Callable[..., Any]:
    """Poll a condition with a deadline; its first true answer."""

    def poll(probe: Callable[[], Any], deadline_s: float = 20) -> Any:
        end = time.monotonic() + deadline_s
        while not (found := probe()):
            assert time.monotonic() < end, f"not within {deadline_s} s"
            time.sleep(0.05)
        return found

    return poll
