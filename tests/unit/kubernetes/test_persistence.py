"""Writes are made again for as long as the API server has not decided."""

from __future__ import annotations

import asyncio

import pytest

from mlsched.adapters.kubernetes import persistence
from mlsched.adapters.kubernetes.apis import ApiError, NoAnswerError, read_error
from mlsched.adapters.kubernetes.persistence import insist


class Write:
    """Fails as it is told before it succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    async def __call__(self) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        return b"done"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "DELAY_S_MIN", 0)


@pytest.mark.parametrize(
    "failure",
    [
        NoAnswerError("nothing came back"),
        ApiError(429, "TooManyRequests", "later", 0.0),
        ApiError(500, "InternalError", "etcd"),
        ApiError(401, "Unauthorized", "a token that was just renewed"),
    ],
)
def test_a_failure_that_may_pass_is_waited_out(failure: Exception) -> None:
    told: list[str] = []
    assert asyncio.run(insist(Write(failure, failure), told.append)) == b"done"
    assert len(told) == 2


@pytest.mark.parametrize("code", [403, 404, 409, 422])
def test_what_the_api_server_decided_is_told_to_whoever_asked(code: int) -> None:
    write = Write(ApiError(code, "", "no"), ApiError(code, "", "never asked"))
    with pytest.raises(ApiError, match="no"):
        asyncio.run(insist(write))
    assert len(write.failures) == 1


@pytest.mark.parametrize(
    ("header", "after_s"), [("3", 3.0), ("86400", 60.0), (None, None), ("soon", None), ("-1", None)]
)
def test_nobody_is_made_to_wait_for_longer_than_a_minute(
    header: str | None, after_s: float | None
) -> None:
    assert read_error(503, b"", header).retry_after_s == after_s
