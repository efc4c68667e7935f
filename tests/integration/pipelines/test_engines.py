"""The contract that every engine keeps; Dask and Ray are added to ENGINES when they exist."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlsched.errors import PipelineError
from mlsched_pipelines import Call, Engine, LocalEngine, Outcome, Plan, csv, open_dataset, run
from mlsched_pipelines.splits import Split
from mlsched_pipelines.tasks import Assignment, run_split

ENGINES: dict[str, Callable[[int], Engine]] = {"local": LocalEngine}
MakeCsv = Callable[..., Path]


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest) -> Callable[[int], Engine]:
    """How to start an engine with some workers."""
    return ENGINES[request.param]


@pytest.fixture
def engine(make_engine: Callable[[int], Engine]) -> Iterator[Engine]:
    """An engine with two workers."""
    with make_engine(2) as started:
        yield started


def add(shared: int, argument: int) -> int:
    """A call that works."""
    return shared + argument


def fail(shared: Any, argument: Any) -> None:
    """A call that raises."""
    raise ValueError(f"bad {argument}")


def wait(shared: Any, argument: Any) -> None:
    """A call that lasts until an event is set."""
    assert argument.wait(30)


def collect(engine: Engine, count: int) -> dict[str, Outcome]:
    found: list[Outcome] = []
    while len(found) < count:
        found.extend(engine.wait_any(30))
    return {outcome.task_id: outcome for outcome in found}


def test_it_is_an_engine(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.slots == 2


def test_each_call_ends_once_and_sees_the_shared_value(engine: Engine) -> None:
    shared = engine.put_ref(100)
    for number in range(20):
        engine.submit(Call(f"t{number}", add, shared, number))
    found = collect(engine, 20)
    assert {task: outcome.value for task, outcome in found.items()} == {
        f"t{number}": 100 + number for number in range(20)
    }
    assert engine.wait_any(0) == ()


def test_an_exception_is_an_outcome_with_its_frames(engine: Engine) -> None:
    engine.submit(Call("t", fail, engine.put_ref(None), 3))
    error = collect(engine, 1)["t"].error
    assert isinstance(error, ValueError)
    assert str(error) == "bad 3"
    assert error.__traceback__ is not None


def test_waiting_ends_after_its_time(engine: Engine) -> None:
    gate = threading.Event()
    engine.submit(Call("t", wait, engine.put_ref(None), gate))
    assert engine.wait_any(0.01) == ()
    gate.set()
    assert collect(engine, 1)["t"].error is None


def test_a_call_that_has_not_begun_can_be_cancelled(make_engine: Callable[[int], Engine]) -> None:
    gate = threading.Event()
    with make_engine(1) as engine:
        shared = engine.put_ref(1)
        engine.submit(Call("running", wait, shared, gate))
        engine.submit(Call("waiting", add, shared, 1))
        engine.cancel("waiting")
        engine.cancel("never submitted")
        gate.set()
        found = collect(engine, 2)
    assert found["waiting"].cancelled
    assert not found["running"].cancelled


def test_locality_is_advice(engine: Engine, tmp_path: Path) -> None:
    near = engine.locality([str(tmp_path / "none")])
    engine.submit(Call("t", add, engine.put_ref(1), 1, near))
    assert collect(engine, 1)["t"].value == 2


def test_an_engine_needs_a_worker(make_engine: Callable[[int], Engine]) -> None:
    with pytest.raises(PipelineError, match="worker"):
        make_engine(0)


def plan_of(source: Path, schema: pa.Schema, out: Path) -> Plan:
    return (
        Plan.scan(csv(source, schema, split_bytes=4000))
        .filter(pc.field("value") > -1)
        .map_batches(lambda b: b.set_column(1, "value", pc.exp(b.column(1))), schema=schema)
        .sort([("kind", "ascending"), ("value", "descending")])
        .write(out, partition_by="kind", batch_bytes=8192)
    )


def test_any_number_of_workers_gives_the_same_bits(
    make_engine: Callable[[int], Engine], make_csv: MakeCsv, schema: pa.Schema, tmp_path: Path
) -> None:
    source = make_csv(rows=3000)
    found = []
    for workers in (1, 2, 3, 4):
        with make_engine(workers) as engine:
            run(plan_of(source, schema, tmp_path / f"out{workers}"), pipeline="p", engine=engine)
        dataset = open_dataset(tmp_path / f"out{workers}")
        dataset.verify()
        found.append(dataset.files)
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == 4


def test_a_task_that_runs_twice_leaves_one_record(
    engine: Engine, make_csv: MakeCsv, schema: pa.Schema, tmp_path: Path
) -> None:
    plan = Plan.scan(csv(make_csv(), schema)).write(tmp_path / "out")
    assignment = Assignment(plan, "r")
    assignment.folder.mkdir(parents=True)
    shared = engine.put_ref(assignment)
    split: Split = plan.splits[0]
    for attempt in ("a", "b"):
        engine.submit(Call(attempt, run_split, shared, split))
    found = collect(engine, 2)
    assert found["a"].value == found["b"].value
    assert len(list(assignment.folder.glob("*.done"))) == 1
    assert len(list(assignment.folder.glob("*.arrow"))) == 1


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
