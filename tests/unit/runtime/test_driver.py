"""The asyncio driver: durable before it acts, nothing lost when the store is full."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from mlsched.errors import InvariantError, StoreFullError, TemporaryError
from mlsched.model.events import AttemptEnded, CancelRequested, Instant, JobSubmitted, NodeObserved
from mlsched.model.jobs import EndCause, Job, JobState, Outcome
from mlsched.runtime.controller import Controller
from mlsched.runtime.driver import Driver
from mlsched.testing.builders import job, node


class Log:
    """Store and actuator in one, which notes in which order it was asked for what."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.full = 0
        self.refuse_launch: Exception | None = None
        self.asked = asyncio.Event()

    async def save(self, jobs: Iterable[Job]) -> None:
        if self.full:
            self.full -= 1
            self.lines.append("full")
            raise StoreFullError("no room", delay_s=0)
        self.lines.append("save " + " ".join(f"{job.name}={job.state}" for job in jobs))
        self.asked.set()

    async def launch(self, job: Job) -> None:
        self.lines.append(f"launch {job.name} {job.attempt}")
        self.asked.set()
        if self.refuse_launch:
            raise self.refuse_launch

    async def adopt(self, job: Job) -> None:
        self.lines.append(f"adopt {job.name} {job.attempt}")
        self.asked.set()

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        self.lines.append(f"stop {job_id} {attempt} {grace_s}")
        self.asked.set()

    async def until(self, line: str) -> None:
        """Wait until a line was noted."""
        async with asyncio.timeout(5):
            while line not in self.lines:
                self.asked.clear()
                await self.asked.wait()


class Still:
    """A clock that stands still."""

    def now(self) -> Instant:
        return Instant(0, 0)


def driving(log: Log) -> Driver:
    driver = Driver(Controller(), log, log, clock=Still())
    driver.start()
    driver.post(NodeObserved(node("a", 2)))
    return driver


def test_a_record_is_durable_before_the_launch_and_before_anyone_hears_of_it() -> None:
    async def scenario() -> None:
        log = Log()
        driver = driving(log)
        with driver.listen() as queue:
            driver.post(JobSubmitted(job("j", 1)))
            assert queue.empty()
            heard = await queue.get()
        await log.until("launch j 1")
        assert heard.state is JobState.STARTING
        assert log.lines == ["save j=STARTING", "launch j 1"]
        await driver.close()

    asyncio.run(scenario())


def test_a_full_store_delays_the_launch_and_loses_nothing() -> None:
    async def scenario() -> None:
        log = Log()
        log.full = 3
        driver = driving(log)
        driver.post(JobSubmitted(job("j", 1)))
        await log.until("launch j 1")
        assert log.lines == ["full"] * 3 + ["save j=STARTING", "launch j 1"]
        assert driver.unsaved("j") is None
        await driver.close()

    asyncio.run(scenario())


def test_several_steps_share_one_write() -> None:
    async def scenario() -> None:
        log = Log()
        driver = driving(log)
        for seq in (1, 2, 3):
            driver.post(JobSubmitted(job(f"j{seq}", seq)))
        await log.until("launch j3 1")
        assert log.lines[0] == "save j1=STARTING j2=STARTING j3=STARTING"
        await driver.close()

    asyncio.run(scenario())


def test_a_launch_that_is_put_off_goes_back_to_the_queue() -> None:
    async def scenario() -> None:
        log = Log()
        log.refuse_launch = TemporaryError("no room for the launch")
        driver = driving(log)
        driver.post(JobSubmitted(job("j", 1)))
        await log.until("save j=PENDING")
        assert driver.controller.jobs["j"].retries_used == 0
        await driver.close()

    asyncio.run(scenario())


def test_what_was_placed_is_adopted_and_what_was_to_stop_is_stopped_again() -> None:
    async def scenario() -> None:
        log = Log()
        driver = driving(log)
        driver.post(JobSubmitted(job("j", 1)))
        await log.until("launch j 1")
        driver.post(CancelRequested("j", 9))
        await log.until("stop j 1 9")
        left = driver.controller.jobs["j"]
        await driver.close()

        again = driving(other := Log())
        await again.restore([left], {})
        await other.until("stop j 1 9")
        assert "adopt j 1" in other.lines
        again.post(AttemptEnded("j", 1, Outcome(EndCause.STOPPED, 143, 15)))
        await other.until("save j=CANCELLED")
        await again.close()

    asyncio.run(scenario())


def test_an_attempt_that_cannot_be_looked_for_is_told_and_holds_up_no_other() -> None:
    async def scenario() -> None:
        class Broken(Log):
            async def adopt(self, job: Job) -> None:
                await super().adopt(job)
                if job.name == "bad":
                    raise ValueError("no JSON")

        first = Controller()
        events = [
            NodeObserved(node("a")),
            JobSubmitted(job("bad", 1)),
            JobSubmitted(job("good", 2)),
        ]
        first.step(events, Instant(0, 0))
        log, told = Broken(), list[str]()
        driver = Driver(Controller(), log, log, clock=Still(), on_problem=told.append)
        driver.start()
        await driver.restore(first.jobs.values(), {})
        assert log.lines == ["adopt bad 1", "adopt good 1"]
        await driver.close()
        assert told == ["cannot look for bad, which keeps what it holds: ValueError('no JSON')"]

    asyncio.run(scenario())


def test_a_broken_law_stops_the_driver_and_is_told() -> None:
    async def scenario() -> None:
        log, told = Log(), []
        driver = Driver(Controller(), log, log, clock=Still(), on_problem=told.append)
        driver.start()
        driver.post(NodeObserved(node("a", 2)), JobSubmitted(job("j", 1)))
        driver.controller.ledger.release("j")
        with pytest.raises(InvariantError):
            driver.post(JobSubmitted(job("k", 2)))
        assert driver.broken.is_set()
        assert "ledger is derived" in told[0]
        await driver.close()

    asyncio.run(scenario())


def test_any_error_of_a_step_stops_the_driver_and_nothing_is_decided_after_it() -> None:
    """Half of the events may be folded, and the rest is lost."""

    async def scenario() -> None:
        log, told = Log(), []
        driver = Driver(Controller(), log, log, clock=Still(), on_problem=told.append)
        driver.start()
        driver.post(NodeObserved(node("a", 2)))
        driver.controller.policy.key = broken_key  # type: ignore[method-assign]
        with pytest.raises(KeyError):
            driver.post(JobSubmitted(job("j", 1)))
        assert driver.broken.is_set()
        assert told == ["stopping: nothing can be decided any more: KeyError('j')"]
        driver.post(JobSubmitted(job("k", 2)))
        assert "k" not in driver.controller.jobs
        await driver.close()

    def broken_key(one: Job) -> tuple[int, ...]:
        raise KeyError(one.id)

    asyncio.run(scenario())


def test_a_launch_that_may_have_started_is_looked_for_and_never_repeated_blindly() -> None:
    async def scenario() -> None:
        log = Log()
        log.refuse_launch = RuntimeError("a bug of an adapter")
        driver = driving(log)
        driver.post(JobSubmitted(job("j", 1)))
        await log.until("adopt j 1")
        assert driver.controller.jobs["j"].state is JobState.STARTING
        await driver.close()

    asyncio.run(scenario())


def test_a_driver_that_cannot_record_any_more_is_told_and_closes_all_the_same() -> None:
    """Whoever closes it has more to close."""

    async def scenario() -> None:
        log, told = Log(), []

        async def save(jobs: Iterable[Job]) -> None:
            raise KeyError("a bug of an adapter")

        log.save = save  # type: ignore[method-assign]
        driver = Driver(Controller(), log, log, clock=Still(), on_problem=told.append)
        driver.start()
        driver.post(NodeObserved(node("a", 2)), JobSubmitted(job("j", 1)))
        async with asyncio.timeout(20):
            await driver.broken.wait()
        await driver.close()
        assert told == [
            "stopping: nothing can be recorded any more: KeyError('a bug of an adapter')"
        ]

    asyncio.run(scenario())
