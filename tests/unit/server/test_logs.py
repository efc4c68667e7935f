"""What a process of ours tells on the way, and what happens when that cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from mlsched.errors import StoreFullError
from mlsched.model.events import JobSubmitted, NodeObserved
from mlsched.model.jobs import Job
from mlsched.runtime.controller import Controller
from mlsched.runtime.driver import Driver
from mlsched.server.__main__ import log
from mlsched.testing.builders import job, node


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a disk without room."""
    with (
        contextlib.suppress(OSError),
        Path("/dev/full").open("w", buffering=1, encoding="utf-8") as file,
    ):
        yield file


class FullAtFirst:
    """A store that has no room the first time; nothing is ever launched."""

    def __init__(self) -> None:
        self.saved = asyncio.Event()
        self.tries = 0

    async def save(self, jobs: Iterable[Job]) -> None:
        self.tries += 1
        if self.tries == 1:
            raise StoreFullError("no room", delay_s=0)
        self.saved.set()

    async def launch(self, job: Job) -> None:
        pass

    adopt = launch

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        pass


def test_a_full_disk_that_takes_no_line_of_the_log_either_only_delays(
    full: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        store = FullAtFirst()
        driver = Driver(Controller(), store, store, on_problem=log)
        driver.start()
        driver.post(NodeObserved(node("a", 2)), JobSubmitted(job("j", 1)))
        waiting = asyncio.ensure_future(store.saved.wait())
        broken = asyncio.ensure_future(driver.broken.wait())
        await asyncio.wait({waiting, broken}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert not driver.broken.is_set()
        assert store.saved.is_set()
        broken.cancel()
        await driver.close()

    monkeypatch.setattr(sys, "stderr", full)
    asyncio.run(scenario())
