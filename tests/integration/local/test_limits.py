"""Bounds on memory and CPUs hold, and the job is told which of them ended it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlsched.model.jobs import EndCause

MIB = 1 << 20
HOG = """
import time
kept = []
for _ in range(64):
    kept.append(bytearray(b"x" * (16 << 20)))
    time.sleep(0.01)
time.sleep(100)
"""


@pytest.mark.parametrize("cgroups", [True, False], ids=["as-it-can", "watch"])
def test_a_job_over_its_memory_is_ended(bench, cgroups):
    bench.use(cgroups=cgroups)
    job = bench.job(bench.python, "-c", HOG, memory_bytes=200 * MIB)

    async def work(run):
        await run.node.launch(job)
        started = await run.started(job)
        return started.enforcement, await run.ended(job)

    enforcement, outcome = bench.do(work)
    assert enforcement.memory in (
        ("watch",) if not cgroups else ("cgroup v1", "cgroup v2", "watch")
    )
    assert outcome.cause is EndCause.OUT_OF_MEMORY
    assert outcome.exit_code == 137
    assert outcome.memory_peak_bytes >= 100 * MIB
    assert "memory" in outcome.message


def test_a_child_over_the_memory_ends_the_whole_job(bench):
    """The command itself waits for ever for a worker that the bound has killed."""
    bench.use(cgroups=False)
    (bench.path / "hog.py").write_text(HOG)
    job = bench.shell(f"{bench.python} hog.py & sleep 100", memory_bytes=100 * MIB)
    outcome = bench.run(job)
    assert outcome.cause is EndCause.OUT_OF_MEMORY
    assert bench.processes(job) == []


def test_a_worker_killed_by_the_kernel_ends_the_whole_job(bench, can_use_cgroups):
    (bench.path / "hog.py").write_text(HOG)
    job = bench.shell(f"{bench.python} hog.py & sleep 100", memory_bytes=100 * MIB)
    outcome = bench.run(job)
    assert outcome.cause is EndCause.OUT_OF_MEMORY
    assert bench.processes(job) == []


@pytest.mark.parametrize("cgroups", [True, False], ids=["as-it-can", "watch"])
def test_memory_that_forked_processes_share_counts_once(bench, cgroups):
    """Five processes of 60 MiB that are all one: under 200 MiB in truth."""
    bench.use(cgroups=cgroups)
    code = (
        "import os, time\n"
        "x = bytearray(b'x' * (60 << 20))\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0: time.sleep(1); os._exit(0)\n"
        "time.sleep(1)\n"
    )
    outcome = bench.run(bench.job(bench.python, "-c", code, memory_bytes=200 * MIB))
    assert (outcome.cause, outcome.exit_code) == (EndCause.EXITED, 0)


def test_a_job_that_kills_itself_is_not_out_of_memory(bench):
    outcome = bench.run(bench.shell("kill -KILL $$", memory_bytes=200 * MIB))
    assert (outcome.cause, outcome.exit_code) == (EndCause.SIGNALLED, 137)


def test_a_job_without_a_bound_has_none(bench):
    job = bench.shell("exit 0")

    async def work(run):
        await run.node.launch(job)
        return (await run.started(job)).enforcement

    assert bench.do(work).memory == "none"


def test_cpus_are_bounded_where_groups_allow_it(bench, can_use_cgroups):
    """A loop of 0.5 s of CPU time takes 2.5 s or more on a fifth of a CPU."""
    code = "import time\nwhile time.process_time() < 0.5: pass\n"
    job = bench.job(bench.python, "-c", code, milli_cpus=200)

    async def work(run):
        await run.node.launch(job)
        started = await run.started(job)
        return started.enforcement.cpus, await run.ended(job)

    cpus, outcome = bench.do(work)
    assert cpus.startswith("cgroup")
    assert outcome.run_ms > 1800


def test_groups_are_gone_when_the_job_is(bench, can_use_cgroups):
    """Also when the job made groups of its own below, or stays in none."""
    job = bench.shell("sleep 0.1", memory_bytes=200 * MIB, milli_cpus=1000)
    bench.run(job)
    groups = bench.files(job).read_groups()
    assert groups
    assert [group for group in groups if Path(group).exists()] == []


def test_looking_at_memory_costs_little(bench):
    """The watch of a job that sleeps for two seconds: a few percent of one CPU at most."""
    import psutil

    bench.use(cgroups=False)
    job = bench.job("sleep", "100", memory_bytes=200 * MIB)

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        supervisor = psutil.Process(bench.supervisor(job))
        before, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
        await bench.sleep(2)
        share = (sum(supervisor.cpu_times()[:2]) - before) / (time.monotonic() - began)
        await run.node.stop(job.id, 1, 0)
        await run.ended(job)
        return share

    assert bench.do(work) < 0.1
