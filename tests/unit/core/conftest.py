from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlsched.testing.cases import Case


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case()
    yield made
    assert made.checked, "the case was never checked"
