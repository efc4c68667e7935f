"""Stopping: by request or by the clock, first kindly, then by force, and told as what it was."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from mlsched.adapters.local import nodes
from mlsched.model.jobs import EndCause
from mlsched.model.specs import StopSignal

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); "


def _deaf(bench, **more):
    return bench.job(bench.python, "-c", DEAF + "time.sleep(100)", **more)


async def _printed(bench, job, text=b"1\n"):
    await bench.until(lambda: bench.output(job).startswith(text))


def test_a_stop_signals_the_whole_group(bench):
    """The shell and what it waits for both hear of it."""
    job = bench.shell("trap 'echo shell; exit 1' TERM; (trap 'echo child; exit' TERM; echo 1; "
                      "while :; do sleep 0.05; done) & wait; wait")  # fmt: skip

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        await run.node.stop(job.id, 1, 10)
        return await run.ended(job)

    outcome = bench.do(work)
    assert outcome.cause is EndCause.STOPPED
    assert outcome.exit_code is not None
    assert {b"shell", b"child"} <= set(bench.output(job).split())


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(bench):
    job = _deaf(bench)

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        began = time.monotonic()
        await run.node.stop(job.id, 1, 1)
        outcome = await run.ended(job)
        return outcome, time.monotonic() - began

    outcome, took_s = bench.do(work)
    assert (outcome.cause, outcome.exit_code, outcome.signal) == (EndCause.STOPPED, 137, 9)
    assert 0.9 <= took_s < 5


def test_a_second_stop_can_only_shorten_the_grace(bench):
    job = _deaf(bench)

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        began = time.monotonic()
        await run.node.stop(job.id, 1, 60)
        await run.node.stop(job.id, 1, 0)
        await run.ended(job)
        return time.monotonic() - began

    assert bench.do(work) < 10


def test_sigterm_is_sent_once(bench):
    """A program that saves its work on SIGTERM is not disturbed by a second request."""
    text = "trap 'echo term' TERM; echo 1; for i in $(seq 30); do sleep 0.05; done; exit 3"
    job = bench.shell(text)

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        await run.node.stop(job.id, 1, 60)
        await _printed(bench, job, b"1\nterm\n")
        await run.node.stop(job.id, 1, 50)
        return await run.ended(job)

    outcome = bench.do(work)
    assert (outcome.cause, outcome.exit_code) == (EndCause.STOPPED, 3)
    assert bench.output(job) == b"1\nterm\n"


def test_a_stopped_process_hears_the_stop(bench):
    job = bench.shell("echo 1; kill -STOP $$; sleep 100")

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        await run.node.stop(job.id, 1, 30)
        return await run.ended(job, 10)

    assert bench.do(work).cause is EndCause.STOPPED


def test_what_ended_before_the_stop_ended_by_itself(bench):
    """Exit evidence wins: only a daemon is left when the stop comes."""
    code = (
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid()\n"
        "    print(1, flush=True); time.sleep(100)\n"
        "time.sleep(0.5)\n"
    )
    job = bench.job(bench.python, "-c", code, grace_seconds=30)

    async def work(run):
        await run.node.launch(job)
        started = await run.started(job)
        main = bench.files(job).read_started().ranks[0].pid
        await _printed(bench, job)
        await bench.until(lambda: not _exists(main))
        await run.node.stop(job.id, 1, 0)
        return started, await run.ended(job, 10)

    _, outcome = bench.do(work)
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 0)


def _exists(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def test_a_clean_exit_after_the_signal_is_a_stop_with_its_exit_code(bench):
    """A handler that saves and exits 0 has not finished the work, and is not taken for success."""
    job = bench.shell("trap 'exit 0' TERM; echo 1; while :; do sleep 0.05; done")

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        await run.node.stop(job.id, 1, 10)
        return await run.ended(job)

    outcome = bench.do(work)
    assert (outcome.cause, outcome.exit_code) == (EndCause.STOPPED, 0)


def test_a_stop_while_starting_leaves_nothing(bench):
    """Whatever comes first, the attempt ends once, and nothing of it runs on."""

    async def work(run):
        ends = []
        for delay_s in (0.0, 0.002, 0.01, 0.02, 0.03, 0.05):
            job = bench.shell("sleep 100")
            launch = bench.begin(run.node.launch(job))
            await bench.sleep(delay_s)
            await run.node.stop(job.id, 1, 5)
            await launch
            ends.append((await run.ended(job, 10)).cause)
            assert bench.processes(job) == []
        return ends

    assert set(bench.do(work)) <= {EndCause.REVOKED, EndCause.STOPPED}


def test_a_stop_before_the_launch_keeps_it_from_running(bench):
    job = bench.shell("touch witness")

    async def work(run):
        await run.node.stop(job.id, 1, 5)
        await run.node.launch(job)
        outcome = await run.ended(job)
        await bench.sleep(0.2)
        return outcome

    assert bench.do(work).cause is EndCause.REVOKED
    assert not (bench.path / "witness").exists()


def test_the_time_limit_ends_a_job_with_a_cause_of_its_own(bench):
    job = bench.job("sleep", "100", time_limit_seconds=1, grace_seconds=5)
    outcome = bench.run(job, 10)
    assert (outcome.cause, outcome.exit_code, outcome.signal) == (EndCause.TIME_LIMIT, 143, 15)
    assert 950 <= outcome.run_ms < 4000
    assert "time limit of 1 s" in outcome.message


def test_the_time_limit_kills_what_ignores_it(bench):
    outcome = bench.run(_deaf(bench, time_limit_seconds=1, grace_seconds=1), 15)
    assert (outcome.cause, outcome.signal) == (EndCause.TIME_LIMIT, 9)
    assert 1900 <= outcome.run_ms < 6000


@pytest.mark.parametrize(("to", "expected"), [("steps", b"child\nshell\n"), ("shell", b"shell\n")])
def test_the_early_notice_goes_to_whom_it_should(bench, to, expected):
    text = (
        "trap 'got=1' USR2; (trap 'echo child; exit' USR2; while :; do sleep 0.02; done) & "
        'while [ -z "$got" ]; do sleep 0.02; done; sleep 0.2; echo shell'
    )
    notice = StopSignal("USR2", before_end_seconds=59, to=to)
    job = bench.shell(text, time_limit_seconds=60, signal=notice, grace_seconds=1)
    outcome = bench.run(job, 15)
    assert outcome.exit_code == 0
    assert 900 <= outcome.run_ms < 6000
    assert bench.output(job) == expected


def test_grace_is_what_the_spec_says_when_nothing_else_is_known(bench):
    """A SIGTERM to the supervisor from outside, without the service's word."""
    job = _deaf(bench, grace_seconds=1)

    async def work(run):
        await run.node.launch(job)
        await _printed(bench, job)
        bench.signal_supervisor(job, 15)
        return await run.ended(job, 10)

    outcome = bench.do(work)
    assert (outcome.cause, outcome.signal) == (EndCause.STOPPED, 9)


def test_a_stop_without_a_handle_to_spare_is_given_once_there_is_one(bench, monkeypatch):
    job = bench.shell("sleep 100")
    open_handle, refusals = os.pidfd_open, [OSError(errno.EMFILE, "Too many open files")] * 3

    def open_scarce(pid):
        if refusals:
            raise refusals.pop()
        return open_handle(pid)

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        monkeypatch.setattr(nodes, "RETRY_S", 0)
        monkeypatch.setattr(os, "pidfd_open", open_scarce)
        await run.node.stop(job.id, 1, 5)
        return await run.ended(job, 10)

    assert bench.do(work).cause is EndCause.STOPPED


def test_a_stop_of_what_has_ended_leaves_nothing_behind(bench):
    """Its end and the stop can cross."""
    job = bench.shell("true")

    async def work(run):
        await run.node.launch(job)
        await run.ended(job)
        await run.node.stop(job.id, 1, 5)
        return dict(run.node._watched)

    assert bench.do(work) == {}
