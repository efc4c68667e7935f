"""A handle that is waited for tells how the waiting ended, whatever ends it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from mlsched.api import jobs as module
from mlsched.api.jobs import Job
from mlsched.errors import UnreachableError


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), UnreachableError("gone")])
def test_an_await_ends_with_what_ended_its_watching(monkeypatch, error):
    """Not with the state that the job is in meanwhile: it goes on."""

    def fail(context=""):
        raise error

    async def wait():
        async with asyncio.timeout(20):
            await Job("train-1", "id", "local")

    monkeypatch.setattr(module, "connect_to", fail)
    monkeypatch.setattr(Job, "_outcome", lambda job: pytest.fail("the job has not ended"))
    with pytest.raises(type(error), match=str(error.args[-1])):
        asyncio.run(wait())


def test_a_callback_is_called_although_the_watching_failed(monkeypatch):
    called = threading.Event()

    def fail(context=""):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "connect_to", fail)
    Job("train-1", "id", "local").add_done_callback(lambda job: called.set())
    assert called.wait(20)


def test_what_may_not_be_seen_of_a_cluster_is_warned_of(monkeypatch):
    found = {"devices": [], "notes": ["you may not list nodes"]}
    monkeypatch.setattr(module, "connect_to", lambda context: SimpleNamespace(call=found_by(found)))
    with pytest.warns(RuntimeWarning, match="may not list nodes"):
        assert module.gpus(context="prod") == []


def found_by(found):
    return lambda op: found
