"""Events are for people: one that cannot be sent keeps nothing, and a fault of ours is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mlsched.adapters.kubernetes.apis import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.notices import Notices
from tests.unit.kubernetes.conftest import own_pod


class Server:
    """Takes events; before each of the first it raises one of these."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sent: list[str] = []
        self.is_done = asyncio.Event()

    async def create(self, path: str, body: bytes) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(json.loads(body)["message"])
        self.is_done.set()
        return b""


def test_the_next_event_is_sent_whatever_became_of_those_before() -> None:
    async def scenario() -> tuple[list[str], int, list[str]]:
        refused = ApiError(403, "Forbidden", "no")
        server, told = Server(refused, NoAnswerError("no answer"), ValueError("odd")), []
        api: Any = server
        notices = Notices(api, on_problem=told.append)
        for node in ("a", "b", "c", "d"):
            notices.tell_bound(own_pod(), node)
        await asyncio.wait_for(server.is_done.wait(), 5)
        await notices.close()
        return server.sent, notices.dropped, told

    sent, dropped, told = asyncio.run(scenario())
    assert [line.rpartition(" ")[2] for line in sent] == ["d"]
    assert dropped == 2
    assert told == ["an Event was not sent: ValueError('odd')"]


def test_nothing_is_sent_or_told_once_the_lease_is_lost() -> None:
    async def scenario() -> tuple[list[str], list[str]]:
        server, told = Server(LeaseLostError("it ran out.")), []
        api: Any = server
        notices = Notices(api, on_problem=told.append)
        notices.tell_bound(own_pod(), "a")
        assert notices._task is not None
        await asyncio.wait_for(notices._task, 5)
        notices.tell_bound(own_pod(), "b")
        await notices.close()
        return server.sent, told

    assert asyncio.run(scenario()) == ([], [])
