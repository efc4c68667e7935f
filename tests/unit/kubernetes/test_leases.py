"""A lease that ran out ends its holder for good; whatever is uncertain is asked about."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mlsched.adapters.kubernetes import leases
from mlsched.adapters.kubernetes.apis import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.leases import Lease, LeaseLostError, Timing


class Server:
    """One Lease object; ``conflicts`` writes are refused as if somebody had been faster."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.conflicts = 0

    async def get(self, path: str) -> bytes:
        if self.lease is None:
            raise ApiError(404, "NotFound", "")
        return json.dumps(self.lease).encode()

    async def create(self, path: str, body: bytes) -> bytes:
        return self._store(body)

    async def replace(self, path: str, body: bytes) -> bytes:
        if self.conflicts:
            self.conflicts -= 1
            raise ApiError(409, "Conflict", "")
        return self._store(body)

    def _store(self, body: bytes) -> bytes:
        self.version += 1
        self.lease = json.loads(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return json.dumps(self.lease).encode()

    @property
    def transitions(self) -> int:
        return int(self.lease["spec"]["leaseTransitions"]) if self.lease else -1


def lease_of(server: Server, name: str, deadline_s: float = 60) -> Lease:
    timing = Timing(duration_s=90, deadline_s=deadline_s, period_s=0)
    return Lease(server, "n", "l", name, timing)  # type: ignore[arg-type] - stands for an Api


def test_a_write_that_the_lease_forbade_ends_its_holder_although_it_is_renewed() -> None:
    async def run() -> None:
        lease = lease_of(Server(), "a", deadline_s=0)
        await lease.acquire()
        with pytest.raises(LeaseLostError):
            lease.check()
        lease._held_until_s = float("inf")
        assert lease.lost.is_set()
        with pytest.raises(LeaseLostError):
            lease.check()

    asyncio.run(run())


def test_a_lease_that_was_given_up_says_why_for_ever() -> None:
    async def run() -> None:
        lease = lease_of(Server(), "a")
        await lease.acquire()
        lease.give_up("a newer one wrote")
        assert await lease._try()
        with pytest.raises(LeaseLostError, match="a newer one wrote"):
            lease.check()

    asyncio.run(run())


def test_a_conflict_while_renewing_does_not_mean_that_another_leads() -> None:
    async def run() -> None:
        server = Server()
        lease = lease_of(server, "a")
        await lease.acquire()
        server.conflicts = 1
        with pytest.raises(NoAnswerError):
            await lease._try()
        assert await lease._try()
        lease.check()

    asyncio.run(run())


def test_an_epoch_never_falls_though_the_lease_was_deleted() -> None:
    async def run() -> None:
        server = Server()
        lease = lease_of(server, "a")
        assert await lease.acquire() == 0
        lease.rise_above(7)
        assert lease.epoch == 8
        assert await lease._try()
        assert server.transitions == 8
        server.lease = None
        assert await lease._try()
        assert (lease.epoch, server.transitions) == (8, 8)
        await lease.release()
        assert await lease_of(server, "b").acquire() == 9

    asyncio.run(run())


@pytest.mark.parametrize(("told_s", "free_s"), [(90, 90), (10, 40), (10**9, 3600)])
def test_a_lease_is_free_when_its_holder_says_so_and_no_sooner_than_we_would(
    told_s: int, free_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0

    async def run() -> None:
        nonlocal now_s
        server = Server()
        await lease_of(server, "a").acquire()
        assert server.lease is not None
        server.lease["spec"]["leaseDurationSeconds"] = told_s
        timing = Timing(duration_s=40, deadline_s=30, period_s=0)
        other = Lease(server, "n", "l", "b", timing)  # type: ignore[arg-type] - as above
        assert not await other._try()
        now_s += free_s - 1
        assert not await other._try()
        now_s += 1
        assert await other._try()

    monkeypatch.setattr(leases.time, "monotonic", lambda: now_s)
    asyncio.run(run())


def test_nothing_is_written_once_the_lease_is_given_back() -> None:
    async def run() -> None:
        lease = lease_of(Server(), "a")
        await lease.acquire()
        lease.check()
        await lease.release()
        with pytest.raises(LeaseLostError):
            lease.check()

    asyncio.run(run())


def test_a_lease_tells_the_settings_of_its_holder_for_as_long_as_it_is_held() -> None:
    told = {"example.org/settings": "s"}

    async def run() -> None:
        server = Server()
        lease = Lease(server, "n", "l", "a", Timing(period_s=0), told)  # type: ignore[arg-type]
        await lease.acquire()
        assert server.lease is not None
        assert server.lease["metadata"]["annotations"] == told
        assert await lease._try()
        assert server.lease["metadata"]["annotations"] == told
        await lease.release()
        assert "annotations" not in server.lease["metadata"]
        await lease_of(server, "of another release").acquire()
        assert server.lease["metadata"]["annotations"] == {}

    asyncio.run(run())
