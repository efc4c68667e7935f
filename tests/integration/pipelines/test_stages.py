"""Plans of several stages: what is counted, what a second try takes over, what is left behind."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines import (
    Call,
    LocalEngine,
    Outcome,
    Plan,
    Progress,
    csv,
    explain,
    open_dataset,
    parquet,
    run,
    table,
)
from mlsched_pipelines.rows import Counts
from mlsched_pipelines.tasks import run_task

MakeCsv = Callable[..., Path]
NAMES = pa.table({"kind": ["k0", "k1", "k2"], "name": ["zero", "one", "two"]})


def plan_of(source: Path, schema: pa.Schema, out: Path, **join: Any) -> Plan:
    """A filter, a broadcast join, a hash join and a group-by: three sources, seven stages."""
    scan = Plan.scan(csv(source, schema, split_bytes=4000))
    highest = scan.group_by("kind", {"highest": ("value", "max")}, partitions=2)
    return (
        scan.filter(pc.field("id") >= 100)
        .join(Plan.scan(table(NAMES)), on="kind", broadcast=True)
        .join(highest, on="kind", partitions=3)
        .group_by("name", {"rows": "count", "sum": ("value", "sum"), "top": ("highest", "max")})
        .sort([("name", "ascending")])
        .write(out)
    )


def expected(source: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    data = pa.csv.read_csv(source).cast(schema)
    names = dict(zip(*(NAMES.column(at).to_pylist() for at in (0, 1)), strict=True))
    rows = []
    for kind, name in sorted(names.items(), key=lambda pair: pair[1]):
        of_kind = data.filter(pc.equal(data["kind"], kind))
        kept = of_kind.filter(pc.greater_equal(of_kind["id"], 100))
        top = pc.max(of_kind["value"]).as_py()
        total = pc.sum(kept["value"]).as_py()
        rows.append({"name": name, "rows": len(kept), "sum": pytest.approx(total), "top": top})
    return rows


def test_joins_and_groups_give_the_right_rows_and_every_row_is_accounted_for(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    source = make_csv(rows=2000)
    seen: list[Progress] = []
    report = run(plan_of(source, schema, tmp_path / "out"), progress=seen.append)
    assert open_dataset(tmp_path / "out").to_table().to_pylist() == expected(source, schema)
    counts = report.counts
    assert (counts.rows_in, counts.rows_out) == (2000 + 3 + 2000, 3)
    data = pa.csv.read_csv(source)
    assert counts.filtered == 100 + sum(
        kind == "k3" for kind in data["kind"].slice(100).to_pylist()
    )
    counts.check("the run")
    assert [each.tasks_done for each in seen] == list(range(1, seen[-1].tasks + 1))
    last = seen[-1]
    assert (last.bytes_done, last.eta_s) == (last.bytes_total, 0)
    assert {each.stage for each in seen} == {"scan", "join", "group_by", "sort"}


def test_rows_between_stages_are_gone_once_a_run_is_published(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    run(plan_of(make_csv(), schema, tmp_path / "out"))
    left = sorted(path.suffix for path in (tmp_path / "out" / "data").rglob("*.*"))
    assert left.count(".arrow") == 1
    assert set(left) == {".arrow", ".done"}
    assert run(plan_of(tmp_path / "in.csv", schema, tmp_path / "out")).published is False


class Breaking(LocalEngine):
    """Threads of which one call, counted over the run, is answered with an error."""

    def __init__(self, number: int) -> None:
        super().__init__(1)
        self.calls = 0
        self._number = number

    def submit(self, call: Call) -> None:
        self.calls += 1
        function = run_task if self.calls != self._number else refuse
        super().submit(Call(call.task_id, function, call.shared, call.argument))


def refuse(shared: Any, argument: Any) -> None:
    """Stands for a fault in the middle of a run."""
    raise RuntimeError("broken on purpose")


def test_a_run_goes_on_from_any_task_on_which_it_broke_off(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    source = make_csv(rows=600)
    whole = Breaking(0)
    with whole:
        run(plan_of(source, schema, tmp_path / "whole"), pipeline="p", engine=whole)
    wanted = open_dataset(tmp_path / "whole").files
    for number in range(1, whole.calls + 1):
        out = tmp_path / f"out{number}"
        with Breaking(number) as engine, pytest.raises(PipelineError, match="broken on purpose"):
            run(plan_of(source, schema, out), pipeline="p", engine=engine)
        again = run(plan_of(source, schema, out), pipeline="p")
        assert again.tasks_resumed >= number - 1
        assert open_dataset(out).files == wanted


def test_what_a_finished_task_left_and_lost_is_made_again(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    plan = plan_of(make_csv(), schema, tmp_path / "out")
    with Breaking(0) as engine:
        run(plan_of(tmp_path / "in.csv", schema, tmp_path / "whole"), pipeline="out", engine=engine)
    with Breaking(engine.calls) as broken, pytest.raises(PipelineError):
        run(plan, engine=broken)
    first, *_, last = sorted((tmp_path / "out").rglob("*.rows"))
    first.write_bytes(first.read_bytes()[:-1])
    last.unlink()
    assert run(plan).tasks_resumed == engine.calls - 3
    assert open_dataset(tmp_path / "out").files == open_dataset(tmp_path / "whole").files


class Watching(LocalEngine):
    """Threads that note how many calls are under way."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.under_way = self.most = 0

    def submit(self, call: Call) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        super().submit(call)

    def wait_any(self, timeout_s: float | None = None) -> tuple[Outcome, ...]:
        ended = super().wait_any(timeout_s)
        self.under_way -= len(ended)
        return ended


@pytest.mark.parametrize(("tasks_at_once", "most"), [(1, 1), (2, 2), (100, 5)])
def test_only_so_many_tasks_run_at_once_as_fit_into_the_memory(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema, tasks_at_once: int, most: int
) -> None:
    plan = Plan.scan(csv(make_csv(rows=2000), schema, split_bytes=4000)).write(tmp_path / "out")
    largest = explain(plan).stages[0].memory_bytes
    assert largest is not None
    with Watching(4) as engine:
        run(plan, engine=engine, memory_max_bytes=largest * tasks_at_once)
    assert engine.most == most


def test_a_task_that_cannot_fit_says_the_numbers(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    scan = Plan.scan(csv(make_csv(rows=2000), schema, split_bytes=20_000))
    with pytest.raises(PipelineError, match=r"scan: .* about 58\.\d KiB .* 50 KiB") as found:
        run(scan.write(tmp_path / "out"), memory_max_bytes=50 << 10)
    assert "split_bytes" in found.value.hint
    joined = scan.join(scan.project(["id"]), on="id", partitions=1).write(tmp_path / "joined")
    with pytest.raises(PipelineError, match=r"join: .*partition 1 of 1 needs .*") as found:
        run(joined, memory_max_bytes=100 << 10)
    assert "join(partitions=...)" in found.value.hint
    assert not (tmp_path / "joined" / "manifest").exists()


def test_row_groups_that_cannot_pass_are_not_read_and_their_rows_count_as_filtered(
    tmp_path: Path,
) -> None:
    data = pa.table({"day": list(range(1000)), "x": [float(at) for at in range(1000)]})
    pq.write_table(data, tmp_path / "in.parquet", row_group_size=50)
    scan = Plan.scan(parquet(tmp_path / "in.parquet", split_bytes=1500))
    plan = scan.filter(pc.field("day") >= 940).filter(pc.field("x") < 960).write(tmp_path / "out")
    told = explain(plan)
    assert told.splits_pruned > 0
    assert told.bytes_to_read < told.bytes_total / 5
    assert plan.pruned.rows == 900
    assert run(plan).counts == Counts(rows_in=1000, rows_out=20, filtered=980)
    assert open_dataset(tmp_path / "out").to_table()["day"].to_pylist() == list(range(940, 960))


def test_the_band_of_rows_counts_what_was_not_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(100))}), tmp_path / "in.parquet", row_group_size=10)
    scan = Plan.scan(parquet(tmp_path / "in.parquet"))
    assert run(scan.filter(pc.field("a") > 95).write(tmp_path / "out")).counts.rows_in == 100


def test_the_side_of_a_broadcast_join_may_be_empty(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    scan = Plan.scan(csv(make_csv(), schema))
    none = Plan.scan(table(NAMES)).filter(pc.field("name") == "none")
    for how, rows in (("inner", 0), ("left", 1000), ("anti", 1000), ("semi", 0)):
        for partitions in (None, 2):
            out = tmp_path / f"{how}{partitions}"
            plan = scan.join(none, on="kind", how=how, partitions=partitions)  # type: ignore[arg-type]
            assert run(plan.write(out)).counts.rows_out == rows


SAME = pa.table({"key": [0] * 3000, "at": range(3000)})


@pytest.mark.parametrize("how", [{"broadcast": True}, {"partitions": 2}])
def test_a_join_of_many_to_many_comes_in_pieces_in_order(tmp_path: Path, how: Any) -> None:
    scan = Plan.scan(table(SAME))
    joined = scan.join(scan, on="key", suffix="_r", **how).project(["at", "at_r"])
    counts = run(joined.write(tmp_path / "out")).counts
    assert counts == Counts(rows_in=6000, rows_out=9_000_000, made=8_997_000, combined=3000)
    found = open_dataset(tmp_path / "out").to_table()
    assert (found["at"].to_numpy() == np.repeat(range(3000), 3000)).all()
    assert (found["at_r"].to_numpy() == np.tile(range(3000), 3000)).all()


def inflated(batch: pa.RecordBatch) -> dict[str, Any]:
    return {"at": batch["at"], "text": pa.array(["y" * 10_000] * batch.num_rows)}


TALL = pa.schema([("at", pa.int64()), ("text", pa.string())])


@pytest.mark.parametrize(
    "plan",
    [
        lambda scan: scan.join(scan, on="key", suffix="_r").group_by("at", {"n": "count"}),
        lambda scan: scan.join(scan, on="key", suffix="_r", partitions=2).sort("at", partitions=2),
        lambda scan: scan.map_batches(inflated, schema=TALL).sort("at", partitions=2),
    ],
)
def test_rows_that_grow_beyond_the_budget_are_refused_with_the_numbers(
    tmp_path: Path, plan: Callable[[Plan], Plan]
) -> None:
    written = plan(Plan.scan(table(SAME))).write(tmp_path / "out")
    with pytest.raises(PipelineError, match=r"needs about .* may take 20") as caught:
        run(written, memory_max_bytes=20 << 20)
    assert "Give more memory" in caught.value.hint


ANY_TYPE = {
    "half": pa.array([1.5, None, float("nan")], pa.float16()),
    "small": pa.array([Decimal("1.5"), None, Decimal(0)], pa.decimal32(5, 2)),
    "large": pa.array([Decimal("1.5"), None, Decimal(0)], pa.decimal256(50, 2)),
    "text": pa.array(["a", None, ""], pa.large_string()),
    "bytes": pa.array([b"a\xff", None, b""], pa.large_binary()),
    "time": pa.array([1, None, 2], pa.time64("ns")),
    "moment": pa.array([1, None, 2], pa.timestamp("ns", "Europe/Berlin")),
    "span": pa.array([1, None, 2], pa.duration("ms")),
    "list": pa.array([[1], None, [None]], pa.large_list(pa.int8())),
    "pair": pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2)),
    "struct": pa.array([{"a": 1}, None, {"a": None}]),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
    "null": pa.nulls(3),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([bytes(16), None, b"1" * 16], pa.binary(16))
    ),
}


@pytest.mark.parametrize("column", ANY_TYPE.values(), ids=ANY_TYPE)
def test_columns_of_every_type_come_through_every_step(tmp_path: Path, column: pa.Array) -> None:
    data = pa.table({"at": [2, 1, 0], "x": column})
    scan = Plan.scan(table(data, split_rows=2))
    plan = (
        scan.filter(pc.field("at") >= 0)
        .join(scan, on="at", suffix="_r", partitions=2)
        .join(scan.project({"at": pc.field("at"), "y": pc.field("x")}), on="at", how="left")
        .map_batches(
            lambda batch: batch,
            schema=pa.schema(
                [data.schema.field(0), *(pa.field(name, column.type) for name in ("x", "x_r", "y"))]
            ),
        )
        .sort("at", partitions=2)
    )
    run(plan.write(tmp_path / "out"))
    found = open_dataset(tmp_path / "out").to_table()
    expected = data.take([2, 1, 0])["x"].to_pylist()
    assert found["at"].to_pylist() == [0, 1, 2]
    for name in ("x", "x_r", "y"):
        assert repr(found[name].to_pylist()) == repr(expected)


@pytest.mark.parametrize(
    "made",
    [None, 5, [], {"at": 5}, {"at": ["x"]}, {"at": [1, 2], "b": [1]}, {"at": np.zeros((1, 2))}],
)
def test_a_map_that_gives_something_else_is_told_what_is_wanted(tmp_path: Path, made: Any) -> None:
    schema = pa.schema([("at", pa.int64())])
    plan = Plan.scan(table(SAME)).map_batches(lambda _: made, schema=schema)
    with pytest.raises(SchemaMismatchError, match="map_batches") as caught:
        run(plan.write(tmp_path / "out"))
    assert caught.value.hint


@pytest.mark.parametrize("partitions", [1, 2])
def test_batches_with_dictionaries_of_their_own_change_tasks(
    tmp_path: Path, partitions: int
) -> None:
    words = pa.table({"at": range(40), "word": [f"w{at // 8}" for at in range(40)]})
    chunks = [words.slice(at, 8) for at in range(0, 40, 8)]
    coded = pa.concat_tables(
        chunk.set_column(1, "word", chunk["word"].combine_chunks().dictionary_encode())
        for chunk in chunks
    )
    scan = Plan.scan(table(coded, split_rows=20))
    plan = (
        scan.join(scan, on="word", how="semi", broadcast=partitions == 1)
        .sort([("at", "descending")], partitions=partitions)
        .project({"at": pc.field("at"), "word": pc.field("word").cast("string")})
    )
    run(plan.write(tmp_path / "out"))
    expected = words.sort_by([("at", "descending")]).to_pylist()
    assert open_dataset(tmp_path / "out").to_table().to_pylist() == expected
