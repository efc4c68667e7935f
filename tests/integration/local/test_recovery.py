"""Whoever dies, nothing is lost, doubled or left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlsched.adapters.local.processes import (
    ProcessIdentity,
    is_alive,
    read_boot_id,
    read_identity,
    signal_identity,
)
from mlsched.adapters.local.supervisors import spawn_supervisor
from mlsched.model.jobs import EndCause

WITNESS = "echo x >> witness; "


def _witnesses(bench):
    path = bench.path / "witness"
    return path.read_text().count("x") if path.exists() else 0


def _kill_supervisor(bench, job):
    bench.signal_supervisor(job, signal.SIGKILL)


def test_a_job_outlives_its_service_and_is_adopted(bench):
    """Another service finds the same attempt, tells its start, and hears its end."""
    job = bench.shell(WITNESS + "until [ -e go ]; do sleep 0.02; done; exit 3")

    async def first(run):
        await run.node.launch(job)
        return await run.started(job)

    started = bench.do(first)

    async def second(run):
        await run.node.adopt(job)
        again = await run.started(job)
        (bench.path / "go").touch()
        return again, await run.ended(job)

    again, outcome = bench.do(second)
    assert again == started
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 3)
    assert _witnesses(bench) == 1


def test_an_end_that_nobody_saw_is_found_with_its_exit_code(bench):
    job = bench.shell("until [ -e go ]; do sleep 0.02; done; exit 7")

    async def first(run):
        await run.node.launch(job)
        await run.started(job)

    bench.do(first)
    (bench.path / "go").touch()
    end = time.monotonic() + 20
    while bench.files(job).read_outcome() is None:
        assert time.monotonic() < end
        time.sleep(0.01)

    async def second(run):
        await run.node.adopt(job)
        await run.started(job)
        return await run.ended(job)

    outcome = bench.do(second)
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 7)


def test_a_launch_that_was_never_written_is_revoked(bench):
    """The service died after its intent was durable and before anything else."""
    job = bench.shell("true")

    async def work(run):
        await run.node.adopt(job)
        return await run.ended(job)

    assert bench.do(work).cause is EndCause.REVOKED


def _write_launch(bench, job):
    """What a service leaves that died before it could start a supervisor."""

    async def work(run):
        real = os.posix_spawn

        def fail(*args, **more):
            raise OSError(11, "no process can be started")

        os.posix_spawn = fail
        try:
            await run.node.launch(job)
        except Exception as error:  # noqa: BLE001
            return str(error)
        finally:
            os.posix_spawn = real
        return ""

    assert "cannot be started now" in bench.do(work)


def test_a_written_launch_without_a_supervisor_is_revoked_for_ever(bench):
    job = bench.shell(WITNESS)
    _write_launch(bench, job)

    async def adopt(run):
        await run.node.adopt(job)
        return await run.ended(job)

    assert bench.do(adopt).cause is EndCause.REVOKED
    pid = _spawn(bench, job)
    assert os.waitpid(pid, 0)[1] == 0, "a late supervisor leaves at once"
    assert _witnesses(bench) == 0


def _spawn(bench, job):
    read_end, write_end = os.pipe()
    try:
        return spawn_supervisor(bench.files(job).path, write_end, use_groups=False)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_two_supervisors_of_one_attempt_start_it_once(bench):
    job = bench.shell(WITNESS)
    _write_launch(bench, job)
    pids = [_spawn(bench, job) for _ in range(5)]
    assert {os.waitpid(pid, 0)[1] for pid in pids} == {0}
    assert _witnesses(bench) == 1
    assert bench.files(job).read_outcome().exit_code == 0


def test_launching_twice_starts_once(bench):
    job = bench.shell(WITNESS)

    async def work(run):
        await asyncio.gather(run.node.launch(job), run.node.launch(job))
        await run.ended(job)
        await run.node.launch(job)
        await asyncio.sleep(0.2)

    bench.do(work)
    assert _witnesses(bench) == 1


@pytest.mark.slow
def test_a_revocation_that_races_with_the_claim_has_one_winner(bench):
    """Races at moments that are spread over a supervisor's start: what is revoked never ran."""

    async def race(run, delay_s):
        job = bench.shell("echo x >> $MLSCHED_JOB_ID", env={})
        await run.node.launch(job)
        await asyncio.sleep(delay_s)
        revoked = bench.files(job).revoke()
        cause = (await run.ended(job)).cause
        assert (cause is EndCause.REVOKED) == revoked
        assert (bench.path / job.id).exists() == (not revoked)
        return revoked

    async def work(run):
        won = []
        while len(won) < 20 or (all(won) and len(won) < 200):
            won.append(await race(run, len(won) * 0.0015))
        return won

    won = bench.do(work)
    assert any(won), "a revocation before the claim wins"
    assert not all(won), "a revocation after the claim loses"


@pytest.mark.parametrize("groups", [True, False], ids=["cgroups", "no-cgroups"])
def test_kill_9_of_a_supervisor_ends_the_job_with_its_children(bench, groups):
    """Children that daemonised, and children that hide their environment, are gone in 10 s."""
    bench.use(cgroups=groups)
    job = bench.shell(
        "sleep 100 & setsid sleep 100 & (trap '' TERM HUP; env -i sleep 100) & touch up; wait",
        milli_cpus=1000,
    )

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        await bench.until((bench.path / "up").exists)
        tree = await bench.until(lambda: found if len(found := _tree(bench, job)) >= 4 else None)
        began = time.monotonic()
        _kill_supervisor(bench, job)
        outcome = await run.ended(job)
        return outcome, tree, time.monotonic() - began

    outcome, tree, took_s = bench.do(work)
    assert outcome.cause is EndCause.SUPERVISOR_LOST
    assert "supervisor was killed" in outcome.message
    assert took_s < 10
    assert [identity for identity in tree if is_alive(identity)] == []
    for group in bench.files(job).read_groups():
        assert not Path(group).exists()


def _tree(bench, job):
    import psutil

    below = psutil.Process(bench.supervisor(job)).children(recursive=True)
    return [identity for p in below if (identity := read_identity(p.pid))]


def test_kill_9_of_service_and_supervisor_is_cleaned_up_at_adoption(bench):
    job = bench.shell("setsid sleep 100 & touch up; wait")

    async def first(run):
        await run.node.launch(job)
        await run.started(job)
        await bench.until(lambda: (bench.path / "up").exists() and len(bench.processes(job)) >= 2)

    bench.do(first)
    _kill_supervisor(bench, job)
    os.waitpid(bench.supervisor(job), 0)

    async def second(run):
        await run.node.adopt(job)
        return await run.ended(job)

    assert bench.do(second).cause is EndCause.SUPERVISOR_LOST
    assert bench.processes(job) == []


def test_the_end_of_a_supervisor_spares_a_job_of_the_same_id_of_another_service(bench, request):
    """Ids are numbers: two state directories of one user have a job 1 each."""
    others = type(bench)(bench.path / "other" / bench.path.name)
    request.addfinalizer(others.kill_all)
    others.path.mkdir(parents=True)
    ours, theirs = (each.job("sleep", "100", milli_cpus=1000) for each in (bench, others))
    jobs = [(bench, ours), (others, theirs)]
    assert ours.id == theirs.id

    async def work(run):
        async with others.node() as other:
            await run.node.launch(ours)
            await other.node.launch(theirs)
            await run.started(ours)
            await other.started(theirs)
            groups = [each.files(job).read_groups() for each, job in jobs]
            assert len(groups[0]) == len(groups[1])
            _kill_supervisor(bench, ours)
            outcome = await run.ended(ours)
            assert len(others.processes(theirs)) == 1
            await other.node.stop(theirs.id, 1, 0)
            return outcome.cause, (await other.ended(theirs)).cause

    assert bench.do(work) == (EndCause.SUPERVISOR_LOST, EndCause.STOPPED)


def test_after_a_reboot_the_attempt_is_lost_with_the_machine(bench):
    job = bench.shell("sleep 100")
    _write_launch(bench, job)
    claim = {"pid": os.getpid(), "start_time": 1, "boot_id": "another", "claimed_at_ms": 1}
    (bench.files(job).path / "run.json").write_text(json.dumps(claim))

    async def work(run):
        await run.node.adopt(job)
        return await run.ended(job)

    assert bench.do(work).cause is EndCause.NODE_REBOOTED


def test_a_claim_that_a_power_cut_emptied_counts_as_a_claim(bench):
    job = bench.shell("sleep 100")
    _write_launch(bench, job)
    (bench.files(job).path / "run.json").touch()

    async def work(run):
        await run.node.adopt(job)
        return await run.ended(job)

    assert bench.do(work).cause is EndCause.NODE_REBOOTED


def test_a_broken_launch_is_an_error_and_not_a_loop(bench):
    job = bench.shell("true")
    _write_launch(bench, job)
    (bench.files(job).path / "launch.json").write_text("{")

    async def work(run):
        await run.node.launch(job)
        return await run.ended(job)

    outcome = bench.do(work)
    assert outcome.cause is EndCause.CANNOT_START
    assert "supervisor could not begin" in outcome.message


def _burn_to(pid):
    """Make the kernel give this id to the next process, if it can be made to."""
    counter = Path("/proc/sys/kernel/ns_last_pid")
    try:
        counter.write_text(str(pid - 1))
    except OSError:
        pytest.skip("the kernel does not let process ids be chosen here")


def test_an_id_that_was_used_again_is_never_signalled(bench):
    """A real stranger gets the id of a process that ended."""
    first = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    identity = read_identity(first)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    stranger = 0
    end = time.monotonic() + 10
    try:
        while stranger != first:
            assert time.monotonic() < end
            _burn_to(first)
            stranger = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
            if stranger != first:
                os.kill(stranger, signal.SIGKILL)
                os.waitpid(stranger, 0)
        while read_identity(first).start_time == identity.start_time:
            time.sleep(0.02)
            os.kill(stranger, signal.SIGKILL)
            os.waitpid(stranger, 0)
            _burn_to(first)
            stranger = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
            assert stranger == first
        assert not is_alive(identity)
        assert not signal_identity(identity, signal.SIGKILL)
        now = read_identity(stranger)
        assert is_alive(now)
        assert signal_identity(now, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(stranger, 0)[1]) == -signal.SIGTERM
        stranger = 0
    finally:
        if stranger:
            os.kill(stranger, signal.SIGKILL)
            os.waitpid(stranger, 0)


def test_a_stop_never_reaches_a_stranger_with_the_supervisors_id(bench):
    """The claim names an id that is somebody else's now: that process lives on."""
    job = bench.shell("sleep 100")
    _write_launch(bench, job)
    stranger = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    claim = {"pid": stranger, "start_time": 1, "boot_id": read_boot_id(), "claimed_at_ms": 1}
    (bench.files(job).path / "run.json").write_text(json.dumps(claim))
    try:

        async def work(run):
            await run.node.stop(job.id, 1, 0)
            await run.node.adopt(job)
            return await run.ended(job)

        assert bench.do(work).cause is EndCause.SUPERVISOR_LOST
        assert os.waitpid(stranger, os.WNOHANG) == (0, 0)
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)


def test_an_identity_of_another_boot_is_nobody():
    me = read_identity(os.getpid())
    assert is_alive(me)
    other = replace(me, boot_id="another")
    assert not is_alive(other)
    assert not signal_identity(other, 0)
    assert not is_alive(ProcessIdentity(me.pid, me.start_time + 1, me.boot_id))


def test_the_id_of_a_rank_that_has_ended_is_forgotten(bench):
    """It may be the id of a stranger's session by the time that the supervisor dies."""
    go = bench.path / "go"
    text = f"[ $RANK = 0 ] || until [ -e {go} ]; do sleep 0.02; done"
    job = bench.shell(text, tasks_per_node=2)

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        await bench.until(lambda: len(bench.files(job).read_started().ranks) == 1)
        (left,) = bench.files(job).read_started().ranks
        go.touch()
        return left.rank, await run.ended(job)

    rank, outcome = bench.do(work)
    assert rank == 1
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 0)


def test_after_a_reboot_nobody_is_taken_for_a_process_of_before_it(bench):
    """Ids and start times begin again with each boot: a stranger can have both of them."""
    job = bench.shell("sleep 100")
    _write_launch(bench, job)
    stranger = os.posix_spawn("/bin/sleep", ["sleep", "100"], {}, setsid=True)
    now = read_identity(stranger)
    claim = {"pid": 1 << 21, "start_time": 1, "boot_id": "before", "claimed_at_ms": 1}
    rank = {"rank": 0, "pid": stranger, "start_time": now.start_time}
    (bench.files(job).path / "run.json").write_text(json.dumps(claim))
    (bench.files(job).path / "started.json").write_text(
        json.dumps({"started_at_ms": 1, "ranks": [rank]})
    )
    try:

        async def work(run):
            await run.node.adopt(job)
            return await run.ended(job)

        assert bench.do(work).cause is EndCause.NODE_REBOOTED
        assert os.waitpid(stranger, os.WNOHANG) == (0, 0)
    finally:
        os.kill(stranger, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(stranger, 0)
