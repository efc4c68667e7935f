"""The controller of a cluster ends when a part of it has."""

from __future__ import annotations

import asyncio
import ssl
from typing import NoReturn

import pytest

from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.configs import Access
from mlsched.server.clusters import ClusterController, ClusterSettings


class Nobody:
    """Asks without a name."""

    def authorization(self) -> str:
        return ""

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def make_controller() -> ClusterController:
    """One that asks nobody."""
    access = Access("https://nobody.invalid", Nobody(), "default", "none")
    return ClusterController(access, ClusterSettings())


def test_a_copy_that_ends_before_it_is_complete_ends_the_controller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        controller = make_controller()
        monkeypatch.setattr(controller.lease, "acquire", at_once)
        monkeypatch.setattr(controller.lease, "hold", asyncio.Event().wait)
        monkeypatch.setattr(controller.api, "get", serve_nothing)
        monkeypatch.setattr(controller.pods, "list_all", fail)
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="a bug"):
                await controller.run(asyncio.Event())

    asyncio.run(scenario())


def fail() -> NoReturn:
    raise RuntimeError("a bug")


async def at_once() -> int:
    return 1


async def serve_nothing(path: str, params: object = None) -> bytes:
    if params == {"limit": 1}:
        raise ApiError(404, "NotFound", "not served")
    return await asyncio.Event().wait() and b""
