"""Statuses are written in the end, whatever refuses or delays them, and never over newer ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes import recorders
from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.pods import Owner
from mlsched.adapters.kubernetes.recorders import KnownJobs, Recorder
from mlsched.model.jobs import Job, JobState
from mlsched.testing.builders import job

NAMES = ("a", "b")


class Server:
    """MLJobs by name; ``before`` is awaited before each write, and may refuse it."""

    def __init__(self) -> None:
        self.objects = {name: _object(name) for name in NAMES}
        self.before: Callable[[str], Awaitable[None]] = _agree
        self.refuses_reads = False
        self.written: list[tuple[str, str]] = []

    async def get(self, path: str) -> bytes:
        if self.refuses_reads:
            raise ApiError(403, "Forbidden", "no")
        return json.dumps(self.objects[path.rpartition("/")[2]]).encode()

    async def replace(self, path: str, body: bytes) -> bytes:
        name = path.split("/")[-2]
        await self.before(name)
        given, known = json.loads(body), self.objects[name]
        if given["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody was faster")
        self.touch(name, given["status"])
        self.written.append((name, given["status"]["state"]))
        return json.dumps(known).encode()

    def touch(self, name: str, status: dict[str, Any]) -> None:
        """As if somebody wrote a status."""
        metadata = self.objects[name]["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        self.objects[name]["status"] = status


def _object(name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"command": ["x"]}}


async def _agree(name: str) -> None:
    pass


def failing(times: int, error: ApiError) -> Callable[[str], Awaitable[None]]:
    """Refuses the first writes."""
    errors = [error] * times

    async def before(name: str) -> None:
        if errors:
            raise errors.pop()

    return before


def recording(server: Server, **more: Any) -> Recorder:
    """A recorder that knows the jobs of all objects."""
    api: Any = server
    recorder = Recorder(api, now_ms=lambda: 0, **more)
    for number, name in enumerate(NAMES, 1):
        recorder.reflector.put(json.dumps(server.objects[name]).encode())
        owner = Owner("team", name, name)
        recorder.known[f"team/{name}"] = KnownJobs(owner, [job(f"team/{name}", number)])
    return recorder


def in_state(name: str, state: JobState) -> Job:
    return replace(job(f"team/{name}", NAMES.index(name) + 1), state=state)


async def until_written(recorder: Recorder) -> None:
    """Until nothing goes on by itself."""
    async with asyncio.timeout(5):
        await recorder._tasks.wait()


def test_one_object_that_is_late_keeps_no_other_and_nothing_of_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        server, opened = Server(), asyncio.Event()

        async def hang(name: str) -> None:
            if name == "a":
                await opened.wait()

        server.before = hang
        recorder = recording(server)
        await recorder.save([in_state(name, JobState.STARTING) for name in NAMES])
        assert server.written == [("b", "STARTING")]
        assert recorder.known["team/a"].unwritten
        await recorder.save([in_state("a", JobState.PENDING)])
        opened.set()
        await until_written(recorder)
        assert server.written[1:][-1] == ("a", "PENDING")
        assert not recorder.known["team/a"].unwritten

    monkeypatch.setattr(recorders, "LATE_S", 0.2)
    asyncio.run(scenario())


def test_a_status_that_is_refused_is_written_once_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        server, told, saved = Server(), [], []
        server.before = failing(3, ApiError(403, "Forbidden", "a policy"))
        recorder = recording(
            server, on_problem=told.append, on_saved=lambda one, _: saved.append(one.state)
        )
        await recorder.save([in_state("a", JobState.STARTING)])
        assert recorder.known["team/a"].unwritten
        assert saved == []
        await until_written(recorder)
        assert server.written == [("a", "STARTING")]
        assert saved == [JobState.STARTING]
        assert len(told) == 3

    monkeypatch.setattr(recorders, "REFUSED_S", 0)
    asyncio.run(scenario())


def test_an_object_on_which_we_err_keeps_no_other_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        server, told, errors = Server(), [], [ValueError("odd"), KeyError("still odd")]

        async def err(name: str) -> None:
            if name == "a" and errors:
                raise errors.pop(0)

        server.before = err
        recorder = recording(server, on_problem=told.append)
        await recorder.save([in_state(name, JobState.STARTING) for name in NAMES])
        assert server.written == [("b", "STARTING")]
        assert recorder.known["team/a"].unwritten
        await until_written(recorder)
        assert server.written[1:] == [("a", "STARTING")]
        assert not recorder.known["team/a"].unwritten
        assert told == [
            f"the status of team/a cannot be written: {error}"
            for error in ("ValueError('odd')", "KeyError('still odd')")
        ]

    monkeypatch.setattr(recorders, "REFUSED_S", 0)
    asyncio.run(scenario())


def test_what_somebody_else_wrote_meanwhile_is_read_first() -> None:
    async def scenario() -> None:
        server = Server()
        recorder = recording(server)
        server.touch("a", {"state": "PENDING", "epoch": 0})
        await recorder.save([in_state("a", JobState.STARTING)])
        assert server.written == [("a", "STARTING")]

    asyncio.run(scenario())


def test_a_conflict_that_cannot_be_looked_into_is_no_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        server = Server()
        recorder = recording(server)
        server.touch("a", {"state": "PENDING", "epoch": 0})
        server.refuses_reads = True
        await recorder.save([in_state("a", JobState.STARTING)])
        assert recorder.known["team/a"].unwritten
        server.refuses_reads = False
        await until_written(recorder)
        assert server.written == [("a", "STARTING")]

    monkeypatch.setattr(recorders, "REFUSED_S", 0)
    asyncio.run(scenario())


def test_an_older_controller_finds_out_that_it_is_one() -> None:
    async def scenario() -> None:
        server, lost = Server(), []
        recorder = recording(server, epoch=lambda: 3, on_lost=lost.append)
        server.touch("a", {"state": "RUNNING", "epoch": 4})
        with pytest.raises(LeaseLostError, match="newer controller"):
            await recorder.save([in_state("a", JobState.STARTING)])
        assert lost == ["team/a was written by a newer controller."]
        assert server.written == []

    asyncio.run(scenario())


def test_what_goes_on_by_itself_ends_when_a_newer_controller_has_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        server, lost = Server(), []
        server.before = failing(1, ApiError(403, "Forbidden", "a policy"))
        recorder = recording(server, epoch=lambda: 3, on_lost=lost.append)
        await recorder.save([in_state("a", JobState.STARTING)])
        server.touch("a", {"state": "RUNNING", "epoch": 4})
        await until_written(recorder)
        assert lost == ["team/a was written by a newer controller."]
        assert server.written == []
        assert recorder.known["team/a"].unwritten

    monkeypatch.setattr(recorders, "REFUSED_S", 0)
    asyncio.run(scenario())


def test_nothing_of_an_object_that_is_gone_starts_although_no_watch_has_told_of_it() -> None:
    async def scenario() -> None:
        server, told = Server(), []

        async def vanish(name: str) -> None:
            raise ApiError(404, "NotFound", f'mljobs.mlsched.io "{name}" not found')

        server.before = vanish
        recorder = recording(server)
        recorder.reflector.handle = lambda before, after: told.append((before, after))
        await recorder.save([in_state("a", JobState.STARTING)])
        assert [(before.metadata.name if before else "", after) for before, after in told] == [
            ("a", None)
        ]

    asyncio.run(scenario())


def test_a_kind_that_is_not_served_just_now_makes_no_object_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        server = Server()
        missing = "the server could not find the requested resource"
        server.before = failing(2, ApiError(404, "NotFound", missing))
        recorder = recording(server)
        await recorder.save([in_state("a", JobState.STARTING)])
        assert recorder.known["team/a"].unwritten
        await until_written(recorder)
        assert server.written == [("a", "STARTING")]

    monkeypatch.setattr(recorders, "REFUSED_S", 0)
    asyncio.run(scenario())
