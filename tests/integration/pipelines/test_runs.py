"""Runs on real files: what comes out, what is set aside, and what stops a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from mlsched.errors import NotFoundError, PipelineError, SchemaMismatchError
from mlsched_pipelines import (
    Check,
    Contract,
    Plan,
    Progress,
    arrow,
    csv,
    executions,
    open_dataset,
    parquet,
    run,
    table,
)
from mlsched_pipelines.rows import Counts

MakeCsv = Callable[..., Path]
VIEW = pa.string_view()


def test_rows_go_through_the_steps_in_input_order(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    source = csv(make_csv(rows=1000), schema, split_bytes=3000)
    plan = (
        Plan.scan(source)
        .filter(pc.field("id") >= 10)
        .project({"id": pc.field("id"), "twice": pc.field("value") * 2})
        .map_batches(
            lambda b: {"id": b.column("id"), "t": pc.abs(b.column("twice"))},
            schema=pa.schema([("id", pa.int64()), ("t", pa.float64())]),
        )
        .write(tmp_path / "out")
    )
    assert len(plan.splits) > 5
    report = run(plan)
    found = open_dataset(tmp_path / "out").to_table()
    expected = pa.csv.read_csv(tmp_path / "in.csv").slice(10)
    assert found["id"].to_pylist() == list(range(10, 1000))
    assert found["t"].to_pylist() == [abs(v * 2) for v in expected["value"].to_pylist()]
    assert report.counts == Counts(rows_in=1000, rows_out=990, filtered=10)


def test_parquet_and_arrow_files_give_the_same_rows_as_csv(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    data = pa.csv.read_csv(make_csv(rows=500)).cast(schema)
    pq.write_table(data, tmp_path / "in.parquet", row_group_size=64)
    with pa.ipc.new_file(tmp_path / "in.arrow", schema) as writer:
        writer.write_table(data, max_chunksize=64)
    sources = {
        "csv": csv(tmp_path / "in.csv", schema, split_bytes=2000),
        "parquet": parquet(tmp_path / "in.parquet", schema, split_bytes=1500),
        "arrow": arrow(tmp_path / "in.arrow", schema, split_bytes=1500),
        "table": table(data, split_rows=100),
    }
    for name, source in sources.items():
        plan = Plan.scan(source).write(tmp_path / name)
        assert len(plan.splits) > 1, name
        run(plan)
        assert open_dataset(tmp_path / name).to_table().equals(data), name


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_sort_is_over_all_splits_and_keeps_equal_rows_in_order(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema, partitions: int
) -> None:
    source = csv(make_csv(rows=1000), schema, split_bytes=3000)
    plan = Plan.scan(source).sort([("kind", "descending")], partitions=partitions)
    plan = plan.filter(pc.field("id") != 5)
    report = run(plan.write(tmp_path / "out"))
    found = open_dataset(tmp_path / "out").to_table().select(["kind", "id"]).to_pylist()
    assert found == sorted(found, key=lambda row: (-int(row["kind"][1:]), row["id"]))
    assert report.counts == Counts(rows_in=1000, rows_out=999, filtered=1)


def test_a_sort_that_does_not_fit_its_memory_says_the_numbers(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    source = csv(make_csv(rows=1000), schema, split_bytes=1000)
    plan = Plan.scan(source).sort(["id"], partitions=1).write(tmp_path / "out")
    with pytest.raises(PipelineError, match=r"sort: .* needs about .* may take 19.5 KiB") as error:
        run(plan, memory_max_bytes=20_000)
    assert "sort(partitions=...)" in error.value.hint
    run(
        Plan.scan(source).sort(["id"], partitions=20).write(tmp_path / "out"),
        memory_max_bytes=20_000,
    )


def test_partitions_can_be_read_apart(tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema) -> None:
    run(Plan.scan(csv(make_csv(), schema)).write(tmp_path / "out", partition_by="kind"))
    dataset = open_dataset(tmp_path / "out")
    parts = [dataset.where(kind=f"k{i}").to_table() for i in range(4)]
    assert [set(part["kind"].to_pylist()) for part in parts] == [{f"k{i}"} for i in range(4)]
    assert sorted(pa.concat_tables(parts)["id"].to_pylist()) == list(range(1000))
    with pytest.raises(NotFoundError, match="k9"):
        dataset.where(kind="k9")


BAD = "id,value,kind\n1,1.5,a\nx,2.5,b\n3,,c\n4,1.0\n5,9.0,e\n6,oops,f\n7,-1.0,g\n"


def bad_plan(tmp_path: Path, schema: pa.Schema, rejects_max: int) -> Plan:
    (tmp_path / "bad.csv").write_text(BAD)
    contract = Contract(schema, {"value": Check(minimum=0)})
    source = csv(tmp_path / "bad.csv", contract, split_bytes=20)
    return Plan.scan(source).write(tmp_path / "out", rejects_max=rejects_max)


def test_bad_rows_are_set_aside_with_their_place_and_reason(
    tmp_path: Path, schema: pa.Schema
) -> None:
    plan = bad_plan(tmp_path, schema, rejects_max=4)
    assert len(plan.splits) > 2
    report = run(plan)
    assert report.counts == Counts(rows_in=7, rows_out=3, rejected=4)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.to_table()["id"].to_pylist() == [1, 3, 5]
    assert dataset.to_table()["value"].to_pylist() == [1.5, None, 9.0]
    rejects = sorted(dataset.rejects().to_pylist(), key=lambda row: row["row"])
    found = [(row["row"], row["field"], row["expected"], row["found"]) for row in rejects]
    assert found == [
        (2, "id", "int64", "x"),
        (4, "", "3 cells", "2"),
        (6, "value", "double", "oops"),
        (7, "value", "a value >= 0", "-1.0"),
    ]


def test_a_bad_row_stops_the_run_unless_rejects_are_allowed(
    tmp_path: Path, schema: pa.Schema
) -> None:
    with pytest.raises(SchemaMismatchError, match=r"bad\.csv, row \d+: field .* expected"):
        run(bad_plan(tmp_path, schema, rejects_max=0))
    with pytest.raises(NotFoundError):
        open_dataset(tmp_path / "out")


def test_more_bad_rows_than_the_budget_over_all_tasks_stop_the_run(
    tmp_path: Path, schema: pa.Schema
) -> None:
    with pytest.raises(SchemaMismatchError, match=r"rows break their contract and 3 may be"):
        run(bad_plan(tmp_path, schema, rejects_max=3))
    with pytest.raises(NotFoundError):
        open_dataset(tmp_path / "out")


def test_a_function_that_raises_names_its_input_and_publishes_nothing(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    def fails(batch: pa.RecordBatch) -> pa.RecordBatch:
        if 500 in batch.column("id").to_pylist():
            raise ValueError("no such thing")
        return batch

    source = csv(make_csv(), schema, split_bytes=3000)
    plan = Plan.scan(source).map_batches(fails, schema=schema).write(tmp_path / "out")
    with pytest.raises(PipelineError, match=r"in\.csv failed: ValueError: no such thing"):
        run(plan)
    with pytest.raises(NotFoundError):
        open_dataset(tmp_path / "out")


def test_a_function_that_exits_ends_the_run_and_not_the_program(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    def leaves(batch: pa.RecordBatch) -> pa.RecordBatch:
        sys.exit(f"after {batch.num_rows}")

    scan = Plan.scan(csv(make_csv(rows=10), schema)).map_batches(leaves, schema=schema)
    with pytest.raises(PipelineError, match="SystemExit: after 10"):
        run(scan.write(tmp_path / "out"))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda b: b.slice(1), "rows"),
        (lambda b: b.select(["id", "value"]), "'kind'"),
        (lambda b: b.set_column(0, "id", b.column("id").cast(pa.int32())), "int32"),
        (lambda b: 7, "int"),
        (lambda b: {"id": [1]}, "'value'"),
    ],
)
def test_a_function_that_breaks_its_promise_is_an_error(
    tmp_path: Path,
    make_csv: MakeCsv,
    schema: pa.Schema,
    returned: Callable[[pa.RecordBatch], pa.RecordBatch],
    message: str,
) -> None:
    plan = Plan.scan(csv(make_csv(), schema)).map_batches(returned, schema=schema)
    with pytest.raises(SchemaMismatchError, match=message):
        run(plan.write(tmp_path / "out"))


def test_rows_that_a_function_makes_or_drops_are_counted(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    def doubled(batch: pa.RecordBatch) -> pa.Table:
        return pa.Table.from_batches([batch, batch])

    plan = Plan.scan(csv(make_csv(), schema)).map_batches(doubled, schema=schema, changes_rows=True)
    assert run(plan.write(tmp_path / "out")).counts == Counts(
        rows_in=1000, made=1000, rows_out=2000
    )


def test_an_input_that_changed_after_the_plan_stops_the_run(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    plan = Plan.scan(csv(make_csv(), schema)).write(tmp_path / "out")
    make_csv(rows=2000)
    with pytest.raises(PipelineError, match="changed after the plan was made"):
        run(plan)


def test_a_schema_that_drifts_in_a_later_file_is_found_before_anything_runs(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    make_csv("day1.csv")
    drifted = make_csv("day2.csv").read_text().replace("value", "valeur", 1)
    (tmp_path / "day2.csv").write_text(drifted)
    with pytest.raises(SchemaMismatchError, match=r"day2\.csv.*'value'"):
        Plan.scan(csv(tmp_path / "day*.csv", schema))
    data = pa.csv.read_csv(make_csv("day3.csv"))
    pq.write_table(
        data.set_column(1, "value", data["value"].cast(pa.string())), tmp_path / "a.parquet"
    )
    expected = r"a\.parquet: field 'value': expected double, found string"
    with pytest.raises(SchemaMismatchError, match=expected):
        Plan.scan(parquet(tmp_path / "a.parquet", schema))


def test_a_row_count_outside_the_promised_band_is_not_published(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    source = csv(make_csv(rows=10), Contract(schema, rows_min=100))
    with pytest.raises(PipelineError, match=r"expected 100\.\.any rows, found 10"):
        run(Plan.scan(source).write(tmp_path / "out"))


def test_a_value_that_must_be_unique_is_checked_over_all_shards(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    contract = Contract(schema, {"id": Check(unique=True)})
    once = Plan.scan(csv(make_csv(), schema, split_bytes=3000))
    assert run(once.write(tmp_path / "once", schema=contract)).published
    paths = [make_csv("one.csv"), make_csv("two.csv", rows=3)]
    twice = Plan.scan(csv(paths, schema))
    with pytest.raises(PipelineError, match=r"'id' must be unique: 1003 rows have 1000 values"):
        run(twice.write(tmp_path / "twice", schema=contract))


VIEWS = {
    "text": pa.array(["a", None, "b" * 20], pa.string_view()),
    "bytes": pa.array([b"a", None, b"b" * 20], pa.binary_view()),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([7, 8])),
    "inner": pa.array([{"a": ["x"]}, None, {"a": []}], pa.struct([("a", pa.list_(VIEW))])),
}
"""As other programs write them (Polars: views); Arrow's kernels take few of them."""


@pytest.mark.parametrize("kind", ["arrow", "parquet", "table"])
def test_views_and_runs_are_read_as_plain_values(tmp_path: Path, kind: str) -> None:
    views = dict(VIEWS)
    if kind == "parquet":
        del views["runs"]  # which such files cannot hold
    data = pa.table({"id": [3, 1, 2], **views})
    source = table(data)
    if kind == "arrow":
        with pa.ipc.new_file(tmp_path / "in.arrow", data.schema) as writer:
            writer.write_table(data)
        source = arrow(tmp_path / "in.arrow")
    elif kind == "parquet":
        pq.write_table(data, tmp_path / "in.parquet")
        source = parquet(tmp_path / "in.parquet")
    plan = Plan.scan(source).filter(pc.field("id") > 1).sort(["id"]).write(tmp_path / "out")
    run(plan)
    found = open_dataset(tmp_path / "out").to_table()
    assert found.column("text").type == pa.large_string()
    assert found.to_pylist() == [data.slice(at, 1).to_pylist()[0] for at in (2, 0)]


def test_views_are_read_as_the_text_that_is_promised(tmp_path: Path) -> None:
    data = pa.table({"text": VIEWS["text"]})
    promised = pa.schema([("text", pa.string())])
    run(Plan.scan(table(data, promised)).write(tmp_path / "out"))
    assert open_dataset(tmp_path / "out").schema == promised
    other = pa.schema([("text", pa.int64())])
    with pytest.raises(SchemaMismatchError, match="expected int64, found string_view"):
        Plan.scan(table(data, other)).write(tmp_path / "out")


def test_progress_tells_every_task(tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema) -> None:
    told: list[Progress] = []
    plan = Plan.scan(csv(make_csv(), schema, split_bytes=5000)).write(tmp_path / "out")
    run(plan, progress=told.append)
    tasks = len(plan.splits)
    assert [(each.tasks_done, each.tasks) for each in told] == [
        (i + 1, tasks) for i in range(tasks)
    ]
    assert told[-1].rows_out == 1000


def test_progress_is_told_while_a_task_takes_long(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "TELL_EVERY_S", 0.01)
    told: list[Progress] = []
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def hear(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 3:
            gate.write_bytes(b"")

    def slow(batch: pa.RecordBatch) -> pa.RecordBatch:
        gate.read_bytes()
        return batch

    scan = Plan.scan(csv(make_csv(rows=10), schema))
    plan = scan.map_batches(slow, schema=schema).write(tmp_path / "out")
    run(plan, progress=hear)
    assert [each.tasks_done for each in told[:3]] == [0, 0, 0]
    assert told[0].wall_s < told[2].wall_s
    assert told[-1].tasks_done == told[-1].tasks == len(plan.splits)


def test_an_empty_input_gives_an_empty_dataset(tmp_path: Path, schema: pa.Schema) -> None:
    (tmp_path / "in.csv").write_text("id,value,kind\n")
    run(Plan.scan(csv(tmp_path / "in.csv", schema)).write(tmp_path / "out"))
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.rows, dataset.to_table().schema) == (0, schema)


def test_quoted_line_ends_are_read_when_a_file_is_one_split(
    tmp_path: Path, schema: pa.Schema
) -> None:
    (tmp_path / "in.csv").write_text('id,value,kind\n1,2.0,"a\nb"\n2,3.0,"c,d"\n')
    run(Plan.scan(csv(tmp_path / "in.csv", schema, split_bytes=0)).write(tmp_path / "out"))
    assert open_dataset(tmp_path / "out").to_table()["kind"].to_pylist() == ["a\nb", "c,d"]


def test_the_dataset_keeps_what_the_write_promises_about_nulls(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    strict = pa.schema([field.with_nullable(False) for field in schema])
    run(Plan.scan(csv(make_csv(), schema)).write(tmp_path / "out", schema=strict))
    assert open_dataset(tmp_path / "out").schema == strict
    (tmp_path / "gap.csv").write_text("id,value,kind\n1,,a\n")
    plan = Plan.scan(csv(tmp_path / "gap.csv", schema)).write(tmp_path / "gap", schema=strict)
    with pytest.raises(SchemaMismatchError, match=r"row 1: field 'value': expected no null"):
        run(plan)
