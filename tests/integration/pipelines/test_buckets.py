"""Pipelines on a real object store: the same bits as on a disk, and commits that lose nothing."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from mlsched.errors import NotFoundError, PipelineError
from mlsched_pipelines import (
    Feed,
    LocalEngine,
    Plan,
    arrow,
    collect_orphans,
    csv,
    open_dataset,
    parquet,
    run,
    table,
)
from mlsched_pipelines.rows import Counts
from mlsched_pipelines.stores import open_store

pytestmark = pytest.mark.needs_ceph
MakeCsv = Callable[..., Path]
WRITERS = 8
ROWS = 300


@pytest.fixture
def inputs(s3_url: str, make_csv: MakeCsv, schema: pa.Schema) -> str:
    """A folder of the bucket with the same rows as CSV, Parquet and Arrow, in two files each."""
    store = open_store(f"{s3_url}/in")
    for name in ("one", "two"):
        path = make_csv(f"{name}.csv", rows=500, seed=len(name))
        data = pa.csv.read_csv(path).cast(schema)
        pq.write_table(data, path.with_suffix(".parquet"), row_group_size=50)
        with pa.ipc.new_file(path.with_suffix(".arrow"), schema) as writer:
            writer.write_table(data, max_chunksize=100)
        for suffix in (".csv", ".parquet", ".arrow"):
            content = path.with_suffix(suffix).read_bytes()
            assert store.put_new(f"{name}{suffix}", content)
    return f"{s3_url}/in"


def steps(source: Any, out: str | Path) -> Plan:
    scan = Plan.scan(source)
    names = Plan.scan(table(pa.table({"kind": ["k0", "k1", "k2"], "name": ["a", "b", "c"]})))
    return (
        scan.filter(pc.field("id") >= 50)
        .join(names, on="kind")
        .join(scan.group_by("kind", {"top": ("value", "max")}), on="kind", partitions=2)
        .sort([("value", "descending")], partitions=2)
        .group_by("name", {"rows": "count", "sum": ("value", "sum"), "top": ("top", "max")})
        .write(out, rejects_max=5)
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_a_pipeline_from_and_to_a_bucket_gives_the_bits_of_one_on_a_disk(
    kind: str, inputs: str, s3_url: str, tmp_path: Path, schema: pa.Schema
) -> None:
    make = {
        "csv": lambda where: csv(f"{where}/*.csv", schema, split_bytes=4000),
        "parquet": lambda where: parquet(f"{where}/*.parquet", split_bytes=4000),
        "arrow": lambda where: arrow(f"{where}/*.arrow", split_bytes=4000),
    }[kind]
    local = run(steps(make(tmp_path), tmp_path / "out"), pipeline="p")
    away = run(steps(make(inputs), f"{s3_url}/out"), pipeline="p")
    assert away.counts == local.counts
    found = open_dataset(f"{s3_url}/out")
    found.verify()
    assert found.digest == open_dataset(tmp_path / "out").digest
    assert found.to_table().equals(open_dataset(tmp_path / "out").to_table())
    again = run(steps(make(inputs), f"{s3_url}/out"), pipeline="p")
    assert (again.published, again.version) == (False, 1)
    left = open_store(f"{s3_url}/out").list_files(f"data/{away.key.run_id}")
    assert not [entry for entry in left if entry.path.endswith(".rows")]


def test_rows_that_break_their_contract_are_set_aside_in_the_bucket(
    s3_url: str, schema: pa.Schema
) -> None:
    open_store(s3_url).put_new("in.csv", b"id,value,kind\n1,2.5,a\nx,1.0,b\n3,4,c\n")
    plan = Plan.scan(csv(f"{s3_url}/in.csv", schema)).write(f"{s3_url}/out", rejects_max=1)
    assert run(plan).counts == Counts(rows_in=3, rows_out=2, rejected=1)
    [bad] = open_dataset(f"{s3_url}/out").rejects().to_pylist()
    assert (bad["file"], bad["row"], bad["found"]) == (f"{s3_url}/in.csv", 2, "x")


def test_an_object_that_changed_after_the_plan_stops_the_run(
    inputs: str, schema: pa.Schema
) -> None:
    plan = Plan.scan(csv(f"{inputs}/one.csv", schema)).write(f"{inputs}/out")
    store = open_store(inputs)
    content = store.read("one.csv")
    store.delete(["one.csv"])
    with pytest.raises(PipelineError, match="changed after the plan"):
        run(plan)
    store.put_new("one.csv", content.replace(b"k1", b"k2", 1))
    with pytest.raises(PipelineError, match="changed after the plan"):
        run(plan)


def test_what_is_not_there_is_not_found(s3_url: str, schema: pa.Schema) -> None:
    with pytest.raises(NotFoundError, match="no input file"):
        Plan.scan(csv(f"{s3_url}/none.csv", schema))
    with pytest.raises(NotFoundError, match="No input file matches"):
        Plan.scan(csv(f"{s3_url}/*.csv", schema))
    with pytest.raises(PipelineError, match="wildcard in its folder"):
        Plan.scan(csv(f"{s3_url}/*/in.csv", schema))
    with pytest.raises(NotFoundError, match="There is no dataset in s3://"):
        open_dataset(f"{s3_url}/out")


def test_a_feed_reads_what_was_brought_here(s3_url: str, tmp_path: Path) -> None:
    data = pa.table({"x": pa.array(range(1000), pa.int64())})
    run(Plan.scan(table(data, split_rows=300)).write(f"{s3_url}/out"))
    dataset = open_dataset(f"{s3_url}/out")
    with pytest.raises(PipelineError, match="not on this machine"):
        next(iter(Feed(dataset, batch_size=10).batches()))
    copy = dataset.fetch(tmp_path / "copy")
    assert copy.digest == dataset.digest
    seen = [int(x) for batch in Feed(copy, batch_size=100).batches() for x in batch.numpy()["x"]]
    assert sorted(seen) == list(range(1000))


def test_orphans_in_a_bucket_are_removed_by_age(s3_url: str) -> None:
    run(Plan.scan(table(pa.table({"x": [1]}))).write(f"{s3_url}/out"))
    store = open_store(f"{s3_url}/out")
    store.put_new("data/0123/left.arrow", b"left by a crash")
    now = store.list_files("data/0123")[0].changed_at
    assert collect_orphans(f"{s3_url}/out", age_s_min=60, now=now + 30) == []
    assert "data/0123/left.arrow" in collect_orphans(f"{s3_url}/out", age_s_min=60, now=now + 600)
    open_dataset(f"{s3_url}/out").verify()


def write_interval(out: str, number: int, gate: Any) -> None:
    """One of several writers; they begin together."""
    first = number * ROWS
    data = pa.table({"id": list(range(first, first + ROWS)), "by": [number] * ROWS})
    gate.wait(150)
    with LocalEngine(1) as engine:
        plan = Plan.scan(table(data, split_rows=100)).write(out)
        run(plan, pipeline="p", interval=str(number), engine=engine)


@contextmanager
def reader(out: str) -> Iterator[list[object]]:
    """Poll a dataset all the while; the list gets every sight of a part of a run."""
    wrong: list[object] = []
    over = threading.Event()

    def poll() -> None:
        while not over.wait(0.001):
            try:
                found = open_dataset(out).to_table()
            except NotFoundError:
                continue
            counts = found["by"].value_counts().to_pylist()
            ids = found["id"].to_pylist()
            if any(each["counts"] != ROWS for each in counts) or len(set(ids)) != len(ids):
                wrong.append(counts)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_eight_writers_at_once_none_is_lost_and_no_reader_sees_a_part(s3_url: str) -> None:
    out = f"{s3_url}/out"
    processes = multiprocessing.get_context("spawn")
    gate = processes.Barrier(WRITERS)
    with reader(out) as wrong:
        writers = [
            processes.Process(target=write_interval, args=(out, number, gate))
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(200)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert wrong == []
    dataset = open_dataset(out)
    assert dataset.version == WRITERS
    assert sorted(dataset.to_table()["id"].to_pylist()) == list(range(WRITERS * ROWS))
    assert {each.key.interval for each in dataset.runs} == {str(n) for n in range(WRITERS)}
