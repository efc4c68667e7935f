"""What is written into control groups, and what happens where even SIGKILL has no effect."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from mlsched.adapters.local.supervisor import limits
from mlsched.model.jobs import EndCause

V2_FILES = {
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n",
    "cpu.max": "max 100000",
}


@pytest.fixture
def version_2(tmp_path, monkeypatch):
    """A delegated version 2 hierarchy as far as plain files go: a new directory has its files."""
    real_mkdir, real_rmdir = os.mkdir, os.rmdir

    def mkdir(path, *args):
        real_mkdir(path, *args)
        for name, text in V2_FILES.items():
            Path(path, name).write_text(text)

    def rmdir(path):
        for name in V2_FILES:
            Path(path, name).unlink(missing_ok=True)
        real_rmdir(path)

    monkeypatch.setattr(limits.os, "mkdir", mkdir)
    monkeypatch.setattr(limits.os, "rmdir", rmdir)
    slice_ = tmp_path / "user.slice"
    for path in (slice_, slice_ / "own.scope"):
        mkdir(path)
    monkeypatch.setattr(limits, "_mounts", lambda: {"": (str(tmp_path), "/")})
    monkeypatch.setattr(limits, "_own_groups", lambda: {"": "/user.slice/own.scope"})
    return slice_


def test_version_2_gets_both_bounds_in_one_group(version_2):
    made = limits.Limits("mlsched-j-1", 1 << 30, 2500, use_groups=True)
    assert (made.memory, made.cpus) == ("cgroup v2", "cgroup v2")
    (directory,) = made.directories
    found = {name: Path(directory, name).read_text() for name in V2_FILES}
    assert found["memory.max"].startswith(str(1 << 30))
    assert found["cpu.max"].startswith("250000 100000")
    assert found["memory.swap.max"].startswith("0")
    assert found["memory.oom.group"] == "1"
    assert made.out_of_memory_kills() == 2
    made.remove()
    assert not Path(directory).exists()


def test_version_2_without_memory_control_leaves_memory_to_the_watch(version_2, monkeypatch):
    monkeypatch.delitem(V2_FILES, "memory.max")
    made = limits.Limits("mlsched-j-1", 1 << 30, 1000, use_groups=True)
    assert (made.memory, made.cpus) == ("watch", "cgroup v2")
    made.remove()


def test_without_permission_nothing_is_made(monkeypatch):
    monkeypatch.setattr(limits, "_mounts", lambda: {"": ("/proc/self", "/"), "memory": ("/x", "/")})
    monkeypatch.setattr(limits, "_own_groups", lambda: {"": "/", "memory": "/"})
    made = limits.Limits("mlsched-j-1", 1 << 30, 1000, use_groups=True)
    assert (made.memory, made.cpus, made.directories) == ("watch", "none", [])


@pytest.mark.parametrize(
    ("mount", "root", "path", "expected"),
    [
        ("/cg", "/", "/a/b", ["/cg/a/b", "/cg/a", "/cg"]),
        ("/cg", "/", "/", ["/cg"]),
        ("/cg", "/docker/x", "/docker/x/y", ["/cg/y", "/cg"]),
        ("/cg", "/docker/x", "/docker/x", ["/cg"]),
        ("/cg", "/", "/../outside", []),
    ],
)
def test_our_own_group_is_found_through_mounts_and_namespaces(mount, root, path, expected):
    assert list(limits._upwards(mount, root, path)) == expected


@pytest.fixture
def freezer():
    """Freezes a process: it takes no SIGKILL then, as one in state D."""
    group = Path(f"/sys/fs/cgroup/freezer/mlsched-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("there is no freezer to make a process unkillable with")
    frozen = []

    def freeze(pid: int) -> None:
        frozen.append(pid)
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")

    def thaw() -> None:
        (group / "freezer.state").write_text("THAWED")

    freeze.thaw = thaw
    yield freeze
    thaw()
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while (group / "cgroup.procs").read_text():
        os.sched_yield()
    group.rmdir()


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.parametrize("dies", ["job", "supervisor"])
def test_what_cannot_be_killed_is_told_and_has_not_ended(bench, freezer, dies):
    """What it holds must not be given away while it lives. It ends when it can be killed again."""
    job = bench.job("sleep", "100")

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        pid = bench.files(job).read_started().ranks[0].pid
        freezer(pid)
        if dies == "job":
            await run.node.stop(job.id, 1, 0)
        else:
            os.kill(bench.supervisor(job), signal.SIGKILL)
        stuck = await run.stuck(job)
        assert stuck.pids == (pid,)
        assert not run.has_ended(job)
        freezer.thaw()
        return await run.ended(job)

    outcome = bench.do(work)
    assert outcome.cause is (EndCause.STOPPED if dies == "job" else EndCause.SUPERVISOR_LOST)
