"""When the service of one machine leaves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mlsched.server import __main__ as main


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What decides it; the next look at what is left to do is far away."""
    monkeypatch.setattr(main, "IDLE_CHECK_S", 99.0)
    return SimpleNamespace(
        service=SimpleNamespace(stopping=asyncio.Event()),
        server=SimpleNamespace(connections=1),
        driver=SimpleNamespace(broken=asyncio.Event(), controller=SimpleNamespace(jobs={})),
    )


@pytest.mark.parametrize("reason", ["stopping", "broken"])
def test_it_leaves_at_once_when_it_must(parts: Any, reason: str) -> None:
    async def scenario() -> None:
        told = main._until_done(parts.service, parts.server, parts.driver, 999)
        leaving = asyncio.ensure_future(told)
        await asyncio.sleep(0)
        assert not leaving.done()
        (parts.service.stopping if reason == "stopping" else parts.driver.broken).set()
        await asyncio.wait_for(leaving, 20)

    asyncio.run(scenario())
