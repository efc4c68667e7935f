"""Plans: what is refused before anything runs, and what the plan's hash covers."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlsched.errors import NotFoundError, PipelineError, SchemaMismatchError
from mlsched_pipelines import Check, Contract, Plan, csv, table
from mlsched_pipelines.splits import cut_lines
from mlsched_pipelines.stages import cut_stages

DATA = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])
LISTS = pa.schema([("x", pa.list_(pa.int8()))])


def scan() -> Plan:
    return Plan.scan(table(DATA))


def test_every_step_tells_the_schema_after_it() -> None:
    plan = scan().project({"twice": pc.field("a") * 2, "b": pc.field("b")})
    assert plan.schema == pa.schema([("twice", pa.int64()), ("b", pa.string())])
    assert plan.filter(pc.field("twice") > 2).schema == plan.schema


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: p.project(["c"]),
        lambda p: p.project({"x": pc.add(pc.field("a"), pc.field("b"))}),
        lambda p: p.filter(pc.field("c") > 1),
        lambda p: p.filter(pc.field("a")),
        lambda p: p.sort(["c"]),
        lambda p: p.map_batches(dict, schema=LISTS).sort("x"),
        lambda p: p.group_by("c"),
        lambda p: p.group_by("a", {"x": ("c", "sum")}),
        lambda p: p.group_by("a", {"x": ("b", "sum")}),
        lambda p: p.group_by("a", {"x": ("b", "all")}),
        lambda p: p.group_by("a", {"a": "count"}),
        lambda p: p.join(scan(), on="c"),
        lambda p: p.join(scan(), on={"a": "b"}),
        lambda p: p.join(scan(), on="a"),
        lambda p: p.join(scan(), on="a", suffix=""),
        lambda p: p.write("out", partition_by="c"),
        lambda p: p.write("out", schema=pa.schema([("a", pa.int32())])),
        lambda p: p.project(
            {"d": pc.field("b").cast(pa.dictionary(pa.int32(), pa.string()))}
        ).write("out"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_at_once(wrong: Callable[[Plan], Plan]) -> None:
    with pytest.raises(SchemaMismatchError):
        wrong(scan())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: p.sort([("a", "up")]),
        lambda p: p.sort([]),
        lambda p: p.project("a"),
        lambda p: p.map_batches(lambda b: b, schema=SCHEMA, format="polars"),
        lambda p: p.group_by([]),
        lambda p: p.group_by("a", {"x": "median"}),
        lambda p: p.group_by("a", {"x": "sum"}),
        lambda p: p.group_by("a", partitions=0),
        lambda p: p.join(scan(), on=[]),
        lambda p: p.join(scan(), on="a", how="outer", suffix="_r"),
        lambda p: p.join(scan(), on="a", suffix="_r", broadcast=True, partitions=2),
        lambda p: p.join(scan().write("out"), on="a"),
        lambda p: p.write("out").filter(pc.field("a") > 1),
        lambda p: p.plan_hash,
        lambda p: p.filter("a > 1"),
        lambda p: p.filter(None),
        lambda p: p.filter(pc.greater(DATA["a"], 1)),
        lambda p: p.project({"x": 5}),
        lambda p: p.project([pc.field("a")]),
        lambda p: p.map_batches(5, schema=SCHEMA),
        lambda p: p.map_batches(lambda b: b, schema={"a": pa.int64()}),
        lambda p: p.map_batches(lambda b: b, schema=None),
        lambda p: p.join(table(DATA), on="a"),
        lambda p: p.join(scan(), on=None),
        lambda p: p.join(scan(), on="a", suffix="_r", partitions="3"),
        lambda p: p.group_by(3),
        lambda p: p.group_by("a", ["b"]),
        lambda p: p.group_by("a", {"x": ("b",)}),
        lambda p: p.sort(3),
        lambda p: p.sort([("a", "ascending", "b")]),
        lambda p: Plan.scan("trips.parquet"),
        lambda p: Plan.scan(DATA),
        lambda p: table(DATA, split_rows=0),
    ],
)
def test_a_plan_of_the_wrong_shape_is_refused_at_once(wrong: Callable[[Plan], object]) -> None:
    with pytest.raises(PipelineError):
        wrong(scan())


def variants() -> list[Plan]:
    plan = scan()
    return [
        plan.write("out"),
        plan.filter(pc.field("a") > 1).write("out"),
        plan.filter(pc.field("a") > 2).write("out"),
        plan.filter(pc.field("a") > pa.scalar(1, pa.int8())).write("out"),
        plan.project(["a", "b"]).write("out"),
        plan.map_batches(lambda b: b, schema=SCHEMA).write("out"),
        plan.map_batches(lambda b: b.slice(0), schema=SCHEMA).write("out"),
        plan.map_batches(lambda b: b, schema=SCHEMA, changes_rows=True).write("out"),
        plan.sort(["a"]).write("out"),
        plan.sort([("a", "descending")]).write("out"),
        plan.sort(["a"]).sort(["b"]).write("out"),
        plan.map_batches(lambda b: b, schema=SCHEMA, format="pandas").write("out"),
        plan.group_by("a").write("out"),
        plan.group_by("a", partitions=2).write("out"),
        plan.group_by(["a", "b"]).write("out"),
        plan.group_by("a", {"n": "count"}).write("out"),
        plan.group_by("a", {"m": "count"}).write("out"),
        plan.group_by("a", {"n": ("b", "count")}).write("out"),
        plan.join(scan(), on="a", how="semi").write("out"),
        plan.join(scan(), on="a", how="anti").write("out"),
        plan.join(scan(), on="a", how="semi", partitions=2).write("out"),
        plan.join(scan(), on="b", how="semi").write("out"),
        plan.join(scan().filter(pc.field("a") > 1), on="a", how="semi").write("out"),
        plan.join(Plan.scan(table(DATA.slice(1))), on="a", how="semi").write("out"),
        plan.write("out", partition_by="b"),
        plan.write("out", rejects_max=1),
        plan.write("out", schema=Contract(SCHEMA, {"a": Check(minimum=0)})),
        Plan.scan(table(DATA.slice(1))).write("out"),
        Plan.scan(table(DATA, split_rows=2)).write("out"),
    ]


def test_plans_that_compute_different_things_have_different_hashes() -> None:
    hashes = [plan.plan_hash for plan in variants()]
    assert len(set(hashes)) == len(hashes)


def test_equal_plans_have_equal_hashes_wherever_they_write() -> None:
    assert [p.plan_hash for p in variants()] == [p.plan_hash for p in variants()]
    assert scan().write("out").plan_hash == scan().write("elsewhere").plan_hash


def task_ids(plan: Plan) -> list[str]:
    return [
        stage.task_id(plan.plan_hash, number)
        for stage in cut_stages(plan)
        for number in range(stage.tasks)
    ]


def test_tasks_are_named_by_plan_stage_and_split_or_partition() -> None:
    plan = Plan.scan(table(DATA, split_rows=1)).group_by("a", partitions=2).sort(["a"])
    names = task_ids(plan.write("out"))
    assert len(set(names)) == len(names) == 3 + 2 + 1
    assert set(names).isdisjoint(task_ids(plan.write("out", rejects_max=1)))


def test_two_equal_files_are_two_inputs(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("a,b\n1,x\n")
    plan = Plan.scan(csv(tmp_path / "*.csv", SCHEMA)).write(tmp_path / "out")
    assert len(set(task_ids(plan))) == 2


def test_a_copied_or_touched_file_is_the_same_input(tmp_path: Path) -> None:
    hashes = []
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("a,b\n1,x\n")
        hashes.append(Plan.scan(csv(tmp_path / name, SCHEMA)).write("out").plan_hash)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("split_bytes", [1, 2, 3, 5, 7, 100])
def test_files_are_cut_at_line_ends_only(tmp_path: Path, split_bytes: int) -> None:
    data = b"head\n1\n22\n333\n\n4"
    (tmp_path / "f").write_bytes(data)
    ranges = cut_lines(str(tmp_path / "f"), 5, split_bytes)
    assert b"".join(data[start:stop] for start, stop in ranges) == data[5:]
    assert all(data[stop - 1 : stop] == b"\n" for _, stop in ranges[:-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "header"), ("a,c\n1,x\n", "'b'"), ("\xff\xfe,b\n", "UTF-8")],
)
def test_a_header_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "f.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises((PipelineError, SchemaMismatchError), match=message):
        Plan.scan(csv(tmp_path / "f.csv", SCHEMA))


def test_input_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path / "*.csv"):
        with pytest.raises(NotFoundError, match="input file"):
            Plan.scan(csv(path, SCHEMA))


ODD = pa.table(
    {
        "half": pa.array([1.0], pa.float16()),
        "name": ["a"],
        "small": pa.array([Decimal(1)], pa.decimal32(5, 2)),
        "span": pa.array([1], pa.duration("s")),
        "id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16))),
    }
)
VIEW = {"view": pc.field("name").cast(pa.string_view())}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda plan: plan.group_by("half"), "half"),
        (lambda plan: plan.project(VIEW).group_by("view"), "view"),
        (lambda plan: plan.group_by("small"), "small"),
        (lambda plan: plan.group_by("id"), "id"),
        (lambda plan: plan.group_by([], {"low": ("span", "min")}), "span"),
        (lambda plan: plan.group_by([], {"all": ("small", "sum")}), "small"),
        (lambda plan: plan.join(plan, on="half"), "half"),
        (lambda plan: plan.project(VIEW).join(plan.project(VIEW), on="view"), "view"),
    ],
)
def test_types_that_arrow_cannot_compare_are_refused_with_a_way_out(
    wrong: Callable[[Plan], Plan], field: str
) -> None:
    with pytest.raises(SchemaMismatchError, match=f"{field!r} is") as caught:
        wrong(Plan.scan(table(ODD)))
    assert "cast" in caught.value.hint
