"""kill -9 at every durable step and at random times: readers see nothing or all, re-runs finish."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from mlsched.errors import NotFoundError, StoreFullError
from mlsched_pipelines import Plan, csv, open_dataset, run

MakeCsv = Callable[..., Path]
ROWS = 400

PROGRAM = """
import os, signal, sys
import pyarrow as pa, pyarrow.compute as pc
from mlsched_pipelines import LocalEngine, Plan, csv, run
from mlsched_pipelines.stores import s3

calls = 0
write = os.write

def tell(word, number):
    write(int(sys.argv[1]), f"{word} {number}\\n".encode())

def mortal(function, die_at):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

def work(source, out, die_at):
    for name in ("fsync", "link", "unlink", "replace", "rename", "mkdir", "write"):
        setattr(os, name, mortal(getattr(os, name), die_at))
    s3.call = mortal(s3.call, die_at)
    schema = pa.schema([("id", pa.int64()), ("value", pa.float64()), ("kind", pa.string())])
    # Each step in a bucket is a request, so that there are fewer tasks.
    size, count = (16_000, 1) if out.startswith("s3:") else (8000, 2)
    scan = Plan.scan(csv(source, schema, split_bytes=size))
    tops = scan.group_by("kind", {"top": ("value", "max")}, partitions=count)
    plan = scan.join(tops, on="kind", partitions=count).sort("value", partitions=count)
    with LocalEngine(1 if die_at else 2) as engine:
        run(plan.write(out), engine=engine)
    tell("steps", calls)

for line in sys.stdin:
    source, out, die_at = line.split("\t")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(source, out, int(die_at))
            code = 0
        finally:
            os._exit(code)
    tell("pid", child)
    _, status = os.waitpid(child, 0)
    tell("ended", os.waitstatus_to_exitcode(status))
"""


class Runner:
    """Runs the pipeline in a fresh process again and again; forked, since imports cost a second.

    It tells what happens through a pipe of its own, which nothing else prints to.
    """

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(write_end)],
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=[write_end],
        )
        os.close(write_end)
        self._told = os.fdopen(read_end)
        self.steps = 0

    def start(self, source: Path, out: str | Path, die_at: int = 0) -> int:
        """Begin a run that kills itself at its n-th durable step (0: never); the process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{source}\t{out}\t{die_at}\n")
        self.process.stdin.flush()
        return self._read("pid")

    def wait(self) -> int:
        """The exit code of the run; minus the signal that ended it."""
        return self._read("ended")

    def _read(self, wanted: str) -> int:
        while line := self._told.readline():
            word, number = line.split()
            if word == "steps":
                self.steps = int(number)
            if word == wanted:
                return int(number)
        raise AssertionError("the runner ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._told.close()
        self.process.wait(30)


@pytest.fixture
def make_runner() -> Iterator[Callable[[], Runner]]:
    """Start processes that run the pipeline; all are ended with the test."""
    started: list[Runner] = []

    def make() -> Runner:
        started.append(Runner())
        return started[-1]

    yield make
    for runner in started:
        runner.close()


@contextmanager
def reader(out: str | Path) -> Iterator[list[object]]:
    """Poll a dataset all the while; the list gets every sight that is neither nothing nor all."""
    wrong: list[object] = []
    over = threading.Event()

    def poll() -> None:
        while not over.wait(0.05 if str(out).startswith("s3:") else 0.001):
            try:
                found = open_dataset(out).to_table()
            except NotFoundError:
                continue
            ids = sorted(found["id"].to_pylist())
            if ids != list(range(ROWS)):
                wrong.append(ids)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


def check_finished(out: str | Path) -> None:
    dataset = open_dataset(out)
    dataset.verify()
    assert dataset.version == 1
    found = dataset.to_table()
    values = found["value"].to_pylist()
    assert values == sorted(values)
    assert len(values) == ROWS
    kinds = found["kind"].to_pylist()
    tops = dict(zip(kinds, values, strict=True))  # the last of each kind: values are sorted
    assert found["top"].to_pylist() == [tops[kind] for kind in kinds]


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.needs_ceph)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where datasets go."""
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_url")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_kill_before_any_durable_step_leaves_nothing_or_all(
    place: str, make_csv: MakeCsv, make_runner: Callable[[], Runner]
) -> None:
    source, runner = make_csv(rows=ROWS), make_runner()
    runner.start(source, f"{place}/whole", 10**9)
    assert runner.wait() == 0
    assert runner.steps > 40
    for die_at in range(1, runner.steps + 1):
        out = f"{place}/out{die_at}"
        with reader(out) as wrong:
            runner.start(source, out, die_at)
            assert runner.wait() == -signal.SIGKILL
            runner.start(source, out)
            assert runner.wait() == 0
        assert wrong == []
        check_finished(out)


@pytest.mark.slow
def test_kills_at_random_times_of_one_run_end_in_one_whole_run(
    tmp_path: Path, make_csv: MakeCsv, make_runner: Callable[[], Runner]
) -> None:
    source, runner = make_csv(rows=ROWS), make_runner()
    chance = random.Random(7)
    killed = 0
    for number in range(10):
        out = tmp_path / f"out{number}"
        with reader(out) as wrong:
            for _ in range(6):
                pid = runner.start(source, out)
                threading.Event().wait(chance.uniform(0, 0.04))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed += runner.wait() == -signal.SIGKILL
            runner.start(source, out)
            assert runner.wait() == 0
        assert wrong == []
        check_finished(out)
    assert killed >= 10


@pytest.mark.slow
def test_processes_that_run_one_plan_at_once_publish_it_once(
    tmp_path: Path, make_csv: MakeCsv, make_runner: Callable[[], Runner]
) -> None:
    source = make_csv(rows=ROWS)
    runners = [make_runner() for _ in range(3)]
    for number in range(10):
        out = tmp_path / f"out{number}"
        with reader(out) as wrong:
            for runner in runners:
                runner.start(source, out)
            assert [runner.wait() for runner in runners] == [0, 0, 0]
        assert wrong == []
        check_finished(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(where)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.needs_root
def test_a_full_disk_publishes_nothing_and_the_run_goes_on_when_there_is_space(
    small_disk: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    out = small_disk / "out"
    first = Plan.scan(csv(make_csv("a.csv", rows=500), schema)).write(out)
    run(first, interval="mon")
    plan = Plan.scan(csv(make_csv("b.csv", rows=30_000), schema, split_bytes=100_000)).write(out)
    with pytest.raises(StoreFullError, match=r"is full\. Nothing was published"):
        run(plan, interval="tue")
    assert open_dataset(out).rows == 500
    leftover = [path.name for path in out.rglob(".tmp-*")]
    assert leftover == []
    grow = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(grow, check=True)
    report = run(plan, interval="tue")
    assert report.tasks_resumed > 0
    assert open_dataset(out).rows == 30_500


@pytest.mark.needs_root
@pytest.mark.needs_ceph
def test_a_full_disk_for_files_on_their_way_to_a_bucket_is_named(
    small_disk: Path,
    s3_url: str,
    make_csv: MakeCsv,
    schema: pa.Schema,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    plan = Plan.scan(csv(make_csv(rows=30_000), schema)).write(s3_url)
    with pytest.raises(StoreFullError, match=rf"disk of {small_disk} \(TMPDIR\) is full"):
        run(plan)
