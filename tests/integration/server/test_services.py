"""The operations of the service on the real store, with a machine that launches nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlsched.adapters.store import Store
from mlsched.adapters.store.values import Accepted, Submission
from mlsched.config import NodeSettings, Paths, Settings
from mlsched.errors import NeverFitsError, SpecError, StoreFullError, UnreachableError
from mlsched.model.events import AttemptEnded, NodeObserved
from mlsched.model.jobs import EndCause, Job, JobState, Outcome
from mlsched.runtime.controller import Controller
from mlsched.runtime.driver import Driver
from mlsched.server import records
from mlsched.server.gpu_events import EventRecord
from mlsched.server.inventories import Inventories
from mlsched.server.services import Service
from mlsched.server.views import JsonObject
from mlsched.testing.builders import node


class Usage(NamedTuple):
    """As `shutil.disk_usage` gives it."""

    total: int
    used: int
    free: int


class Nothing:
    """An actuator of a machine on which no attempt ever begins or ends."""

    async def launch(self, job: Job) -> None:
        pass

    async def adopt(self, job: Job) -> None:
        pass

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        pass


class Bench:
    """A service and what it is made of."""

    def __init__(self, path: Path) -> None:
        state = path / "state"
        state.mkdir(exist_ok=True)
        paths = Paths(path / "config.toml", state, path / "cache", path / "s.sock")
        self.store = Store(paths.database)
        self.driver = Driver(Controller(), self.store, Nothing())
        record = EventRecord(path / "events.json")
        inventories = Inventories(NodeSettings(), 99, record, self.driver.post)
        self.service = Service(paths, Settings(), self.store, self.driver, inventories)

    def machine(self, gpus: int) -> None:
        """What there is from now on."""
        self.driver.post(NodeObserved(node("here", gpus)))

    async def submit(self, key: str = "", **spec: Any) -> Any:
        """The answer to a submission."""
        document = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "spec": {"command": ["true"], **spec},
        }
        return await self.service.submit({"document": document, "idempotency_key": key})


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """Run a scenario against a service."""

    async def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
        bench = Bench(tmp_path)
        bench.driver.start()
        bench.machine(gpus=2)
        try:
            async with asyncio.timeout(20):
                await scenario(bench)
        finally:
            await bench.driver.close()
            await bench.store.close()

    return lambda scenario: asyncio.run(run(scenario))


def test_a_key_gives_the_same_job_also_when_it_would_be_refused_by_now(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.submit("key", gpusPerNode=2)
        bench.machine(gpus=0)
        with pytest.raises(NeverFitsError):
            await bench.submit("another", gpusPerNode=2)
        again = await bench.submit("key", gpusPerNode=2)
        assert (first["created"], again["created"]) == (True, False)
        assert again["jobs"][0]["id"] == first["jobs"][0]["id"]

    play(scenario)


def test_a_key_gives_the_same_job_also_when_the_disk_is_full_by_now(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.submit("key", array="0-2")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 1 << 40, 0))
        with pytest.raises(StoreFullError):
            await bench.submit("another", array="0-2")
        again = await bench.submit("key", array="0-2")
        assert again["created"] is False
        assert again["jobs"][0]["id"] == first["jobs"][0]["id"]

    play(scenario)


ASKED: dict[str, Callable[[Service, str], Awaitable[JsonObject]]] = {
    "ls": lambda service, _: service.list_jobs({"all": True}),
    "report": lambda service, _: service.report({}),
    "show": lambda service, job: service.show({"job": job}),
    "cancel": lambda service, job: service.cancel({"jobs": [job], "states": ["RUNNING"]}),
}


@pytest.mark.parametrize("durable", ["later", "meanwhile", "before"])
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_job_that_ends_is_seen_once_at_every_moment(
    play: Any,
    monkeypatch: pytest.MonkeyPatch,
    durable: str,
    ask: Callable[[Service, str], Awaitable[JsonObject]],
) -> None:
    """Its end is decided, then durable: whoever asks between the two must not miss it."""

    async def scenario(bench: Bench) -> None:
        job = (await bench.submit())["jobs"][0]
        save, saved, may_save = bench.store.save, asyncio.Event(), asyncio.Event()

        async def save_when_told(jobs: Iterable[Job]) -> None:
            await may_save.wait()
            await save(jobs)
            saved.set()

        def late(read: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
            async def answer_late(asked: Any) -> Any:
                found = await read(asked)
                if durable == "meanwhile":
                    may_save.set()
                    await saved.wait()
                return found

            return answer_late

        while bench.driver.all_unsaved():
            await asyncio.sleep(0)
        monkeypatch.setattr(bench.store, "save", save_when_told)
        for name in ("ended_jobs", "find"):
            monkeypatch.setattr(bench.store, name, late(getattr(bench.store, name)))
        bench.driver.post(AttemptEnded(job["id"], 1, Outcome(EndCause.EXITED, 0)))
        if durable == "before":
            may_save.set()
            await saved.wait()
        answer = await ask(bench.service, job["id"])
        rows = answer.get("jobs", [answer])
        assert [(row["id"], row["state"]) for row in rows] == [(job["id"], "SUCCEEDED")]
        may_save.set()
        await saved.wait()

    play(scenario)


def test_a_cancellation_is_answered_once_it_is_durable(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was told so must not see the job run after a crash."""

    async def scenario(bench: Bench) -> None:
        first = (await bench.submit())["jobs"][0]
        job = (await bench.submit(after=[first["name"]]))["jobs"][0]
        save, may_save = bench.store.save, asyncio.Event()

        async def save_when_told(jobs: Iterable[Job]) -> None:
            await may_save.wait()
            await save(jobs)

        monkeypatch.setattr(bench.store, "save", save_when_told)
        monkeypatch.setattr(records, "SAVE_S_MAX", 0.05)
        with pytest.raises(StoreFullError, match="could not be written"):
            await bench.service.cancel({"jobs": [job["id"]]})
        monkeypatch.undo()
        may_save.set()
        answer = await bench.service.cancel({"jobs": [job["id"]]})
        assert answer["jobs"][0]["state"] == "CANCELLED"
        (found,) = await bench.store.find(job["id"])
        assert found.state is JobState.CANCELLED

    play(scenario)


def break_(bench: Bench) -> None:
    bench.driver.fail("a test says so")


def leave(bench: Bench) -> None:
    bench.service.stopping.set()


@pytest.mark.parametrize("ends", [break_, leave])
def test_a_service_that_ends_promises_nothing_any_more(
    play: Any, ends: Callable[[Bench], None]
) -> None:
    """Its client asks again: the next service has the job, by its key."""

    async def scenario(bench: Bench) -> None:
        first = await bench.submit("key")
        ends(bench)
        with pytest.raises(ConnectionAbortedError):
            await bench.submit("another")
        with pytest.raises(ConnectionAbortedError):
            await bench.service.cancel({"jobs": [first["jobs"][0]["id"]]})
        assert len(await bench.store.open_jobs()) == 1

    play(scenario)


@pytest.mark.parametrize("ends", [break_, leave])
def test_what_becomes_durable_while_the_service_ends_is_left_to_the_next(
    play: Any, ends: Callable[[Bench], None]
) -> None:
    async def scenario(bench: Bench) -> None:
        accept = bench.store.accept

        async def accept_and_end(submission: Submission) -> Accepted:
            accepted = await accept(submission)
            ends(bench)
            return accepted

        bench.store.accept = accept_and_end  # type: ignore[method-assign]
        with pytest.raises(ConnectionAbortedError):
            await bench.submit("key")
        assert len(await bench.store.by_key("key")) == 1

    play(scenario)


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("cancel", {"jobs": "true-1"}),
        ("cancel", {"jobs": [5]}),
        ("cancel", {"jobs": ["true-1"], "states": 5}),
        ("list", {"state": 5}),
        ("list", {"state": [[]]}),
        ("list", {"limit": "many"}),
        ("report", {"since_s": "yesterday"}),
        ("retry", {"job": "true-1", "set": 5}),
        ("retry", {"job": "true-1", "set": ["priority=1"]}),
    ],
)
def test_an_argument_of_another_kind_is_the_fault_of_who_sent_it(
    play: Any, operation: str, args: dict[str, Any]
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.submit()
        with pytest.raises(SpecError):
            await bench.service.operations[operation](args)

    play(scenario)


@pytest.mark.parametrize(
    "args", [{"jobs": 5}, {"jobs": [None]}, {"timeout_s": "soon"}, {"until": ["running"]}]
)
def test_a_watch_of_another_kind_is_the_fault_of_who_sent_it(
    play: Any, args: dict[str, Any]
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.submit()
        with pytest.raises(SpecError):
            await anext(bench.service.watch({"jobs": ["true-1"], **args}))

    play(scenario)


def test_what_is_durable_is_decided_on_although_the_database_did_not_answer_once(
    play: Any,
) -> None:
    """The ends of what a job waits for are asked for between its record and the controller."""

    async def scenario(bench: Bench) -> None:
        first = (await bench.submit())["jobs"][0]
        refusals = [UnreachableError("busy", delay_s=0)]
        final_states = bench.store.final_states

        async def refuse_once(ids: Iterable[str]) -> dict[str, JobState]:
            if refusals:
                raise refusals.pop()
            return await final_states(ids)

        bench.store.final_states = refuse_once  # type: ignore[method-assign]
        second = (await bench.submit(after=[first["name"]]))["jobs"][0]
        assert second["id"] in bench.driver.controller.jobs

    play(scenario)


def test_a_job_that_is_durable_and_not_decided_on_yet_can_be_cancelled(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        gate = asyncio.Event()
        final_states = bench.store.final_states

        async def wait(ids: Iterable[str]) -> dict[str, JobState]:
            await gate.wait()
            return await final_states(ids)

        bench.store.final_states = wait  # type: ignore[method-assign]
        submitting = asyncio.create_task(bench.submit())
        while not await bench.store.find("true-1"):
            pass
        cancelling = asyncio.create_task(bench.service.cancel({"jobs": ["true-1"]}))
        for _ in range(20):
            await bench.store.find("true-1")
        gate.set()
        await asyncio.gather(submitting, cancelling)
        (job,) = bench.driver.controller.jobs.values()
        assert job.cancel_requested

    play(scenario)
