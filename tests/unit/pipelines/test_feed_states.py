"""The state of a feed: small, exact, and refused where it does not belong."""

from __future__ import annotations

import pytest

from mlsched.errors import PipelineError
from mlsched_pipelines import FeedState

STATE = FeedState(seed=2**64 - 1, epoch=3, global_step=12345, manifest_version=42, order=2**63)


def test_a_state_survives_bytes_and_json() -> None:
    assert FeedState.from_bytes(STATE.to_bytes()) == STATE
    assert FeedState.from_json(STATE.to_json()) == STATE


def test_a_state_is_under_100_bytes() -> None:
    assert len(STATE.to_bytes()) == 40


@pytest.mark.parametrize("data", [b"", STATE.to_bytes()[:-1], b"XXXX" + STATE.to_bytes()[4:]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PipelineError, match="feed state"):
        FeedState.from_bytes(data)


@pytest.mark.parametrize("text", ["", "{}", '{"seed": "x"}', "[1]"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="feed state"):
        FeedState.from_json(text)
