"""Events of the driver: each one once, in bursts too, for as long as somebody listens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import pytest

from mlsched.adapters.nvml import watch_events, watches
from mlsched.core.health import Verdict, assess
from mlsched.core.inventory import with_events
from mlsched.model.inventory import GpuEvent

pytestmark = pytest.mark.needs_gcc


def collect(count: int, then: Callable[[int], None] = lambda seen: None) -> list[GpuEvent]:
    """The first events of a driver; `then` is told how many have come."""

    async def listen() -> list[GpuEvent]:
        found: list[GpuEvent] = []
        stream: AsyncIterator[GpuEvent] = watch_events(restart_s_min=0.05)
        async with asyncio.timeout(30), aclosing(stream):  # type: ignore[type-var]
            async for event in stream:
                found.append(event)
                then(len(found))
                if len(found) == count:
                    break
        return found

    return asyncio.run(listen())


def test_an_xid_is_told_with_its_gpu(driver, fake) -> None:
    driver.say(fake.machine(2), "xid 1 79")
    (event,) = collect(1)
    assert (event.uuid, event.kind, event.code) == (fake.uuid_of(1), "xid", 79)
    assert event.gpu_instance_id is None


def test_two_xids_in_a_burst_are_two_events(driver, fake) -> None:
    driver.say(fake.machine(1), "xid 0 62", "xid 0 45")
    assert [event.code for event in collect(2)] == [62, 45]


def test_events_come_as_they_happen_and_name_mig_instances(driver, fake) -> None:
    lines = [*fake.machine(1), "xid 0 13 3 0"]
    driver.say(lines)

    def more(seen: int) -> None:
        if seen == 1:
            driver.say(lines, "event 0 0x100 0")

    first, second = collect(2, more)
    assert (first.code, first.gpu_instance_id, first.compute_instance_id) == (13, 3, 0)
    assert second.kind == "mig_change"


def test_a_gpu_without_events_does_not_silence_the_others(driver, fake) -> None:
    driver.say(
        fake.system_line(),
        fake.gpu_line(0, event_types=None),
        fake.gpu_line(1),
        fake.gpu_line(2),
        "fail nvmlDeviceGetHandleByIndex_v2 2 15",
        "xid 1 31",
    )
    assert [event.uuid for event in collect(1)] == [fake.uuid_of(1)]


@pytest.fixture
def child(driver) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the process that waits for events; it is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "mlsched.adapters.nvml.events"]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_wait_that_fails_ends_the_child_with_the_reason(driver, fake, child) -> None:
    driver.say(fake.machine(1), "fail nvmlEventSetWait_v2 * 999")
    process = child()
    assert process.wait(timeout=20) == 1
    assert process.stderr.read().splitlines() == [
        "watching 1 GPUs",
        "no more events: unknown error",
    ]


def test_a_child_that_dies_is_started_again(driver, fake, monkeypatch) -> None:
    driver.say(fake.machine(1), "xid 0 31", "fail nvmlEventSetWait_v2 * 999")
    starts = []
    start = watches._start

    async def start_and_mend() -> asyncio.subprocess.Process:
        starts.append(1)
        if len(starts) == 2:
            driver.say(fake.machine(1), "xid 0 31")
        return await start()

    monkeypatch.setattr(watches, "_start", start_and_mend)
    assert [event.code for event in collect(1)] == [31]
    assert len(starts) == 2


def test_the_child_ends_with_its_parent(driver, child) -> None:
    process = child()
    assert process.stderr.readline() == "watching 8 GPUs\n"
    process.stdin.close()
    process.stdin = None
    assert process.wait(timeout=20) == 0


def test_the_stream_ends_where_there_is_no_driver(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    async def listen() -> list[GpuEvent]:
        async with asyncio.timeout(20):
            return [event async for event in watch_events()]

    assert asyncio.run(listen()) == []


def test_an_event_turns_the_verdict_on_its_gpu_alone(driver, fake) -> None:
    driver.say(fake.machine(2), "xid 1 79")
    inventory = with_events(driver.read(), collect(1))
    now_ms = inventory.taken_at_ms
    verdicts = [assess(gpu, inventory.events, now_ms).verdict for gpu in inventory.gpus]
    assert verdicts == [Verdict.PASS, Verdict.CRITICAL]
