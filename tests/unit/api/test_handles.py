"""A handle that is waited for tells how the waiting ended, whatever ends it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from mlsched.api import jobs as module
from mlsched.api.errors import Cancelled
from mlsched.api.jobs import Job
from mlsched.errors import NotFoundError, UnreachableError


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), UnreachableError("gone")])
def test_an_await_ends_with_what_ended_its_watching(monkeypatch, error):
    """Not with the state that the job is in meanwhile: it goes on."""

    def fail(context=""):
        raise error

    async def wait():
        async with asyncio.timeout(20):
            await Job("train-1", "id", "local")

    monkeypatch.setattr(module, "connect_to", fail)
    monkeypatch.setattr(Job, "_outcome", lambda *_: pytest.fail("the job has not ended"))
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


class Deleted:
    """A cluster in which a job that is followed is deleted: nobody finds it afterwards."""

    def __init__(self, state):
        self._state = state

    def stream(self, op, **args):
        return self

    is_over = False

    def poll(self, timeout_s):
        self.is_over = True
        reason = {"code": "Cancelled", "message": "its MLJob was deleted"}
        return [{"id": "team/a", "name": "a", "state": self._state, "reason": reason}]

    def close(self):
        """Nothing is held."""

    def call(self, op, **args):
        raise NotFoundError("there is no job 'team/a' in context prod.")


@pytest.mark.parametrize(
    ("state", "kind"), [("CANCELLED", Cancelled), ("SUCCEEDED", NotFoundError)]
)
def test_a_job_that_is_deleted_ends_as_it_was_seen_to_end(monkeypatch, state, kind):
    monkeypatch.setattr(module, "connect_to", lambda context: Deleted(state))
    job = Job("a", "team/a", "prod")
    with pytest.raises(kind):
        job.result(timeout=20)
    assert type(job.exception(timeout=20)) is kind

    async def wait():
        async with asyncio.timeout(20):
            await job

    with pytest.raises(kind):
        asyncio.run(wait())
