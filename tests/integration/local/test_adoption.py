"""A service that comes later finds every attempt, at whatever moment the first one died."""

from __future__ import annotations

import asyncio
import os

import psutil
import pytest

from mlsched.model.jobs import EndCause


@pytest.mark.slow
def test_a_service_that_dies_at_any_moment_of_a_start_neither_loses_nor_doubles(bench):
    """What was revoked never ran; what was claimed runs once, to its end."""

    async def first(run, job, delay_s):
        launch = bench.begin(run.node.launch(job))
        await asyncio.sleep(delay_s)
        launch.cancel()
        await asyncio.gather(launch, return_exceptions=True)

    async def second(run, job):
        await run.node.adopt(job)
        return await run.ended(job)

    causes = []
    while len(causes) < 24 or (EndCause.EXITED not in causes and len(causes) < 100):
        delay_s = len(causes) * 0.0025
        job = bench.shell("echo x >> $MLSCHED_JOB_ID; sleep 0.05; exit 3")
        bench.do(lambda run, job=job, delay_s=delay_s: first(run, job, delay_s))
        outcome = bench.do(lambda run, job=job: second(run, job))
        witness = bench.path / job.id
        ran = witness.read_text().count("x") if witness.exists() else 0
        assert ran == (outcome.cause is not EndCause.REVOKED)
        if ran:
            assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 3)
        causes.append(outcome.cause)
    assert set(causes) == {EndCause.REVOKED, EndCause.EXITED}


def test_launching_again_after_a_restart_follows_the_first(bench):
    """The second supervisor leaves at once; the first one's attempt is told and not touched."""
    job = bench.shell("echo x >> witness; until [ -e go ]; do sleep 0.02; done; exit 3")

    async def first(run):
        await run.node.launch(job)
        await run.started(job)

    bench.do(first)

    async def second(run):
        await run.node.launch(job)
        await run.started(job)
        (bench.path / "go").touch()
        return await run.ended(job)

    assert bench.do(second).exit_code == 3
    assert (bench.path / "witness").read_text() == "x\n"


def test_a_service_without_a_handle_to_spare_still_hears_the_end(bench, monkeypatch):
    def refuse(pid):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert bench.run(bench.shell("exit 4"), 10).exit_code == 4


def test_stopping_adopts_nothing_it_should_not(bench):
    """A stop before the adoption reaches the supervisor; the adoption tells the end."""
    job = bench.shell("sleep 100")

    async def first(run):
        await run.node.launch(job)
        await run.started(job)

    bench.do(first)

    async def second(run):
        await run.node.stop(job.id, 1, 5)
        await run.node.adopt(job)
        return await run.ended(job, 10)

    assert bench.do(second).cause is EndCause.STOPPED


def test_the_service_keeps_no_zombies_and_no_handles(bench):
    """After many jobs, some taken back while starting, nothing of them is left in the service."""

    async def work(run):
        me = psutil.Process()
        others = set(me.children())
        await run.node.launch(first := bench.shell("true"))
        await run.ended(first)
        before = me.num_fds()
        for index in range(12):
            job = bench.shell("true")
            await run.node.launch(job)
            if index % 2:
                await run.node.stop(job.id, 1, 5)
            await run.ended(job)
        await bench.until(lambda: set(me.children()) <= others)
        return before, me.num_fds()

    before, after = bench.do(work)
    assert after <= before
