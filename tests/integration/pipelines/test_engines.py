"""The contract that every engine keeps, with real clusters of Dask and Ray."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlsched.demo.dataset import plan_digits
from mlsched.errors import PipelineError
from mlsched_pipelines import (
    Call,
    Engine,
    LocalEngine,
    Outcome,
    Plan,
    csv,
    open_dataset,
    run,
    table,
)
from mlsched_pipelines.engines.dask import DaskEngine
from mlsched_pipelines.engines.ray import RayEngine
from mlsched_pipelines.stages import cut_stages
from mlsched_pipelines.tasks import Work, run_task

pytestmark = pytest.mark.timeout(300)

ENGINES: dict[str, Callable[[int], Engine]] = {
    "local": LocalEngine,
    "dask": DaskEngine,
    "ray": RayEngine,
}
MakeCsv = Callable[..., Path]
GetEngine = Callable[[str, int], Engine]


@pytest.fixture(scope="module")
def get_engine() -> Iterator[GetEngine]:
    """An engine by name and number of workers; the tests share it, as a start takes seconds."""
    started: dict[tuple[str, int], Engine] = {}
    with ExitStack() as stack:

        def get(name: str, workers: int) -> Engine:
            if (name, workers) not in started:
                started[name, workers] = stack.enter_context(ENGINES[name](workers))
            return started[name, workers]

        yield get


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    """Which engine."""
    found: str = request.param
    return found


@pytest.fixture
def engine(name: str, get_engine: GetEngine) -> Engine:
    """An engine with two workers."""
    return get_engine(name, 2)


@pytest.fixture(params=["dask", "ray"])
def remote(request: pytest.FixtureRequest, get_engine: GetEngine) -> Engine:
    """An engine whose two workers are processes."""
    return get_engine(request.param, 2)


def add(shared: int, argument: int) -> int:
    """A call that works."""
    return shared + argument


def fail(shared: Any, argument: Any) -> None:
    """A call that raises."""
    raise ValueError(f"bad {argument}")


def wait_until(found: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until
        time.sleep(0.005)


def wait(shared: Any, gate: Path) -> None:
    """A call that lasts until a file is there."""
    gate.with_suffix(".begun").touch()
    wait_until(gate.exists)


def collect(engine: Engine, count: int) -> dict[str, Outcome]:
    found: list[Outcome] = []
    while len(found) < count:
        found.extend(engine.wait_any(30))
    return {outcome.task_id: outcome for outcome in found}


def test_it_is_an_engine(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.slots == 2


def say(shared: object, count: int) -> int:
    """A call that prints, in each way that there is."""
    print("said: é", count)
    sys.stderr.write(f"warned {count}\n")
    sys.stdout.buffer.write(b"x" * count)
    print()
    return count


def test_what_a_call_prints_is_printed_by_the_caller(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    shared = engine.put_ref(None)
    for count in (5, 200_000):
        engine.submit(Call(f"t{count}", say, shared, count))
        assert collect(engine, 1)[f"t{count}"].value == count
    out, err = capfd.readouterr()
    assert out.startswith("said: é 5\nxxxxx\nsaid: é 200000\nxxxxxx")
    assert err == "warned 5\nwarned 200000\n"
    assert isinstance(engine, LocalEngine) or out.endswith("x\n[131 KiB more were printed]\n")


class ClosedPipe(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_call_has_ended_although_what_it_printed_cannot_be_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(Call("t", say, engine.put_ref(None), 1))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ClosedPipe())
        with pytest.raises(BrokenPipeError):
            collect(engine, 1)
    assert collect(engine, 1)["t"].value == 1


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_process_without_standard_streams_gets_its_values(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(Call("t", say, engine.put_ref(None), 1))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        assert collect(engine, 1)["t"].value == 1


def test_each_call_ends_once_and_sees_the_shared_value(engine: Engine) -> None:
    shared = engine.put_ref(100)
    for number in range(20):
        engine.submit(Call(f"t{number}", add, shared, number))
    found = collect(engine, 20)
    assert {task: outcome.value for task, outcome in found.items()} == {
        f"t{number}": 100 + number for number in range(20)
    }
    assert engine.wait_any(0) == ()


def test_a_task_id_can_be_used_again(engine: Engine) -> None:
    for number in (1, 2):
        engine.submit(Call("again", add, engine.put_ref(number), 10))
        assert collect(engine, 1)["again"].value == 10 + number


def test_an_exception_is_an_outcome_with_its_frames(engine: Engine) -> None:
    engine.submit(Call("t", fail, engine.put_ref(None), 3))
    error = collect(engine, 1)["t"].error
    assert isinstance(error, ValueError)
    assert str(error) == "bad 3"
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert (last.name, Path(last.filename)) == ("fail", Path(__file__))


class BoundError(Exception):
    """An error that cannot be pickled, since it holds a lock."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("cannot be told either")


class OddError(Exception):
    """An error that cannot be made again from its arguments alone."""

    def __init__(self, first: str, *, second: str) -> None:
        super().__init__(first + second)
        self.second = second


def raise_bound(shared: Any, argument: Any) -> None:
    """A call whose error cannot be pickled."""
    raise BoundError


def raise_deep(shared: Any, argument: Any) -> None:
    """A call whose error has more errors before it than Python goes down."""
    before: ValueError | None = None
    for number in range(2000):
        error = ValueError(f"number {number}")
        error.__context__, before = before, error
    raise error


def raise_odd(shared: Any, argument: Any) -> None:
    """A call whose error has a cause and a class that the workers do not know."""
    try:
        raise KeyError(argument)
    except KeyError as error:
        raise OddError("a", second="b") from error


def leave(shared: Any, argument: int) -> None:
    """A call that would end its process."""
    sys.exit(argument)


def give_lock(shared: Any, argument: Any) -> Any:
    """A call whose value cannot be pickled."""
    return threading.Lock()


def test_errors_keep_their_class_and_cause(engine: Engine) -> None:
    engine.submit(Call("t", raise_odd, engine.put_ref(None), "k"))
    error = collect(engine, 1)["t"].error
    assert isinstance(error, OddError)
    assert (str(error), error.second) == ("ab", "b")
    assert isinstance(error.__cause__, KeyError)


def test_an_exit_is_an_outcome_and_no_lost_worker(engine: Engine) -> None:
    engine.submit(Call("t", leave, engine.put_ref(None), 7))
    error = collect(engine, 1)["t"].error
    assert isinstance(error, SystemExit)
    assert error.code == 7


def test_what_cannot_be_pickled_is_told(remote: Engine) -> None:
    shared = remote.put_ref(None)
    remote.submit(Call("error", raise_bound, shared, None))
    remote.submit(Call("deep", raise_deep, shared, None))
    remote.submit(Call("value", give_lock, shared, None))
    remote.submit(Call("argument", add, shared, threading.Lock()))
    found = {task: outcome.error for task, outcome in collect(remote, 4).items()}
    assert all(isinstance(error, PipelineError) for error in found.values())
    assert "BoundError" in str(found["error"])
    assert "in raise_bound" in str(found["error"])
    assert "ValueError: number 1999" in str(found["deep"])
    assert "lock" in str(found["value"])
    assert "argument cannot be pickled" in str(found["argument"])
    with pytest.raises(PipelineError, match="shared value cannot be pickled"):
        remote.put_ref(threading.Lock())


def find_shared(shared: Any, argument: Any) -> tuple[int, int]:
    """A call that tells which object the shared value is."""
    return os.getpid(), id(shared)


def test_a_process_loads_a_shared_value_once(remote: Engine) -> None:
    shared = remote.put_ref(list(range(1000)))
    for number in range(12):
        remote.submit(Call(f"t{number}", find_shared, shared, number))
    found = {outcome.value for outcome in collect(remote, 12).values()}
    assert len(found) == len({pid for pid, _ in found}) <= 2


def die_always(shared: Any, count: Path) -> None:
    """A call that kills its worker, and counts how often."""
    with count.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_call_that_kills_its_workers_is_given_up(remote: Engine, tmp_path: Path) -> None:
    remote.submit(Call("t", die_always, remote.put_ref(None), tmp_path / "count"))
    error = collect(remote, 1)["t"].error
    assert isinstance(error, PipelineError)
    assert "died 3 times" in str(error)
    assert "cause is memory" in str(error)
    assert "iB each" in str(error)
    assert (tmp_path / "count").read_text() == "xxx"


def tell_pid(folder: Path, gate: Path) -> int:
    """A call that tells its process, and lasts until a file is there."""
    (folder / str(os.getpid())).touch()
    wait(None, gate)
    return os.getpid()


def test_losing_all_workers_heals(remote: Engine, tmp_path: Path) -> None:
    gate, folder = tmp_path / "gate", tmp_path / "pids"
    folder.mkdir()
    shared = remote.put_ref(folder)
    for number in range(2):
        remote.submit(Call(f"t{number}", tell_pid, shared, gate))
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    killed = {int(path.name) for path in folder.iterdir()}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    gate.touch()
    found = collect(remote, 2)
    assert not {outcome.value for outcome in found.values()} & {None, *killed}


def test_waiting_ends_after_its_time(engine: Engine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    engine.submit(Call("t", wait, engine.put_ref(None), gate))
    assert engine.wait_any(0.01) == ()
    gate.touch()
    assert collect(engine, 1)["t"].error is None


def test_a_call_that_has_not_begun_can_be_cancelled(
    name: str, get_engine: GetEngine, tmp_path: Path
) -> None:
    gate, engine = tmp_path / "gate", get_engine(name, 1)
    shared = engine.put_ref(1)
    engine.submit(Call("running", wait, shared, gate))
    engine.submit(Call("waiting", add, shared, 1))
    wait_until(gate.with_suffix(".begun").exists)
    engine.cancel("waiting")
    engine.cancel("running")
    engine.cancel("never submitted")
    gate.touch()
    found = collect(engine, 2)
    assert found["waiting"].cancelled
    assert found["running"] == Outcome("running")


def test_locality_is_advice(engine: Engine, tmp_path: Path) -> None:
    near = engine.locality([str(tmp_path / "none")])
    engine.submit(Call("t", add, engine.put_ref(1), 1, near))
    assert collect(engine, 1)["t"].value == 2


def test_an_engine_needs_a_worker(name: str) -> None:
    with pytest.raises(PipelineError, match="worker"):
        ENGINES[name](0)


def plan_of(source: Path, schema: pa.Schema, out: Path) -> Plan:
    return (
        Plan.scan(csv(source, schema, split_bytes=4000))
        .filter(pc.field("value") > -1)
        .map_batches(lambda b: b.set_column(1, "value", pc.exp(b.column(1))), schema=schema)
        .sort([("kind", "ascending"), ("value", "descending")], partitions=3)
        .write(out, partition_by="kind", batch_bytes=8192)
    )


def joins_of(source: Path, schema: pa.Schema, out: Path) -> Plan:
    """A filter, a broadcast join, a hash join and a group-by."""
    scan = Plan.scan(csv(source, schema, split_bytes=4000))
    return joined(scan.filter(pc.field("value") > -1), scan).write(out, batch_bytes=8192)


def demo_of(source: Path, schema: pa.Schema, out: Path) -> Plan:
    """What `mlsched demo` builds."""
    with as_file(files("sklearn.datasets") / "data" / "digits.csv.gz") as packed:
        return plan_digits(packed, out)


def joined(rows: Plan, scan: Plan) -> Plan:
    names = Plan.scan(table(pa.table({"kind": ["k0", "k1", "k2"], "name": ["a", "b", "c"]})))
    tops = scan.group_by("kind", {"top": ("value", "max"), "sum": ("value", "sum")}, partitions=2)
    columns = {"rows": "count", "mean": ("value", "mean"), "top": ("top", "max")}
    return (
        rows.join(names, on="kind", broadcast=True)
        .join(tops, on="kind", partitions=3)
        .group_by(["name", "sum"], columns, partitions=2)
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("make", [plan_of, joins_of, demo_of])
def test_any_engine_and_number_of_workers_gives_the_same_bits(
    get_engine: GetEngine,
    make_csv: MakeCsv,
    schema: pa.Schema,
    tmp_path: Path,
    make: Callable[..., Plan],
) -> None:
    source = make_csv(rows=3000)
    found = []
    for name in ENGINES:
        for workers in (1, 2, 4):
            out = tmp_path / f"{name}{workers}"
            run(make(source, schema, out), pipeline="p", engine=get_engine(name, workers))
            dataset = open_dataset(out)
            dataset.verify()
            found.append(dataset.files)
    assert len(found[0]) > 1
    assert all(each == found[0] for each in found)


def test_a_worker_that_is_killed_in_a_run_leaves_the_same_bits(
    remote: Engine, make_csv: MakeCsv, schema: pa.Schema, tmp_path: Path
) -> None:
    source, gate = make_csv(rows=3000), tmp_path / "gate"

    def kill_once(batch: pa.RecordBatch) -> pa.RecordBatch:
        with suppress(FileExistsError):
            gate.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    def keep(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    found = []
    for function, engine in ((keep, LocalEngine(2)), (kill_once, remote)):
        out = tmp_path / function.__name__
        scan = Plan.scan(csv(source, schema, split_bytes=4000))
        rows = scan.map_batches(function, schema=schema, identity="same")
        run(joined(rows, scan).sort(["name"]).write(out), pipeline="p", engine=engine)
        open_dataset(out).verify()
        found.append(open_dataset(out).files)
    assert gate.exists()
    assert found[0] == found[1]


def test_a_task_that_runs_twice_leaves_one_record(
    engine: Engine, make_csv: MakeCsv, schema: pa.Schema, tmp_path: Path
) -> None:
    plan = Plan.scan(csv(make_csv(), schema)).write(tmp_path / "out")
    work = Work("data/r", plan.plan_hash, plan.writes(), cut_stages(plan)[0])
    folder = tmp_path / "out" / "data" / "r"
    folder.mkdir(parents=True)
    shared = engine.put_ref(work)
    for attempt in ("a", "b"):
        engine.submit(Call(attempt, run_task, shared, 0))
    found = collect(engine, 2)
    assert found["a"].error is found["b"].error is None
    assert found["a"].value == found["b"].value
    assert len(list(folder.glob("*.done"))) == 1
    assert len(list(folder.glob("*.arrow"))) == 1


def test_the_first_failure_stops_a_run_and_leaves_the_engine_usable(
    engine: Engine, make_csv: MakeCsv, schema: pa.Schema, tmp_path: Path
) -> None:
    def fails(batch: pa.RecordBatch) -> pa.RecordBatch:
        raise RuntimeError("broken")

    scan = Plan.scan(csv(make_csv(rows=3000), schema, split_bytes=2000))
    with pytest.raises(PipelineError, match="broken"):
        run(scan.map_batches(fails, schema=schema).write(tmp_path / "out"), engine=engine)
    assert engine.wait_any(0) == ()
    assert run(scan.write(tmp_path / "out"), engine=engine).counts.rows_out == 3000
