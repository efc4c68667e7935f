"""Publishing: readers see whole runs only, a run is published once, and damage is found."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pytest

from mlsched.errors import NotFoundError, PipelineError
from mlsched_pipelines import Plan, collect_orphans, csv, open_dataset, run, table
from mlsched_pipelines.manifests import FileRecord, RunKey, RunRecord, encode_schema
from mlsched_pipelines.rows import Counts
from mlsched_pipelines.stores import open_store
from mlsched_pipelines.stores.commits import commit, list_versions, manifest_path, read_manifest
from mlsched_pipelines.stores.files import publish_new

MakeCsv = Callable[..., Path]


def plan_of(make_csv: MakeCsv, schema: pa.Schema, out: Path, *, seed: int = 0) -> Plan:
    return Plan.scan(csv(make_csv(seed=seed), schema, split_bytes=5000)).write(out)


def test_the_same_run_again_computes_and_publishes_nothing(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    plan = plan_of(make_csv, schema, tmp_path / "out")
    first, again = run(plan, interval="mon"), run(plan, interval="mon")
    assert (first.published, again.published) == (True, False)
    assert (again.version, again.counts, again.files) == (1, first.counts, first.files)
    assert list_versions(open_store(tmp_path / "out")) == [1]


def test_another_interval_adds_rows_and_a_new_plan_for_an_interval_replaces_them(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    plan = plan_of(make_csv, schema, tmp_path / "out")
    run(plan, interval="mon")
    run(plan, interval="tue")
    assert open_dataset(tmp_path / "out").rows == 2000
    fewer = Plan.scan(plan.source).filter(pc.field("id") < 10).write(tmp_path / "out")
    assert run(fewer, interval="mon").version == 3
    assert open_dataset(tmp_path / "out").rows == 1010
    assert open_dataset(tmp_path / "out", version=2).rows == 2000


def test_a_run_with_another_schema_cannot_join_other_intervals(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    plan = plan_of(make_csv, schema, tmp_path / "out")
    run(plan, interval="mon")
    other = Plan.scan(plan.source).project(["id"]).write(tmp_path / "out")
    with pytest.raises(PipelineError, match="another schema"):
        run(other, interval="tue")
    assert run(other, interval="mon").published


def test_a_run_resumes_with_the_tasks_that_were_finished(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    stop = True

    def fails_once(batch: pa.RecordBatch) -> pa.RecordBatch:
        if stop and 999 in batch.column("id").to_pylist():
            raise RuntimeError("the last task fails")
        return batch

    scan = Plan.scan(csv(make_csv(), schema, split_bytes=5000))
    plan = scan.map_batches(fails_once, schema=schema, identity="v1").write(tmp_path / "out")
    with pytest.raises(PipelineError, match="the last task fails"):
        run(plan)
    stop = False
    report = run(plan)
    assert report.tasks_resumed == len(plan.splits) - 1
    assert open_dataset(tmp_path / "out").to_table()["id"].to_pylist() == list(range(1000))


def record_of(root: Path, name: str) -> tuple[RunRecord, tuple[FileRecord, ...]]:
    key = RunKey("p", name, "h")
    file = FileRecord(f"data/{key.run_id}/f.arrow", 0, 1, 1, "")
    return RunRecord(key, key.run_id, Counts(1, 1)), (file,)


def race(calls: list[Callable[[], bool]]) -> list[bool]:
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], bool]) -> bool:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


def test_of_many_committers_of_one_run_one_publishes(tmp_path: Path) -> None:
    schema = encode_schema(pa.schema([("a", pa.int64())]))
    for number in range(10):
        record, files = record_of(tmp_path, f"run{number}")
        won = race(
            [
                lambda r=record, f=files: commit(open_store(tmp_path), r, f, schema)[1]
                for _ in range(8)
            ]
        )
        assert sum(won) == 1
        assert len(read_manifest(open_store(tmp_path)).runs) == number + 1


def test_of_many_runs_at_once_every_one_is_published_in_a_version_of_its_own(
    tmp_path: Path,
) -> None:
    schema = encode_schema(pa.schema([("a", pa.int64())]))
    records = [record_of(tmp_path, f"run{number}") for number in range(12)]
    won = race([lambda r=r, f=f: commit(open_store(tmp_path), r, f, schema)[1] for r, f in records])
    assert all(won)
    assert list_versions(open_store(tmp_path)) == list(range(1, 13))
    assert {run.key.interval for run in read_manifest(open_store(tmp_path)).runs} == {
        f"run{number}" for number in range(12)
    }


def test_a_name_is_created_once_with_its_whole_content(tmp_path: Path) -> None:
    target = tmp_path / "name"
    data = [bytes([number]) * 10_000 for number in range(8)]
    won = race([lambda d=each: publish_new(target, d) for each in data])
    assert sum(won) == 1
    assert target.read_bytes() == data[won.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def shards(tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema) -> list[Path]:
    run(plan_of(make_csv, schema, tmp_path / "out"))
    return [tmp_path / "out" / file.path for file in open_dataset(tmp_path / "out").files]


def test_a_truncated_or_missing_shard_is_found_when_the_dataset_is_opened(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    shard = shards(tmp_path, make_csv, schema)[1]
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(PipelineError, match=rf"{shard.name} is damaged: expected {size} bytes"):
        open_dataset(tmp_path / "out")
    shard.unlink()
    with pytest.raises(PipelineError, match=f"{shard.name} is missing"):
        open_dataset(tmp_path / "out")


def test_one_changed_bit_is_found_by_verify(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    shard = shards(tmp_path, make_csv, schema)[1]
    with shard.open("r+b") as file:
        file.seek(500)
        byte = file.read(1)
        file.seek(500)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(PipelineError, match=f"{shard.name} is damaged: expected checksum"):
        open_dataset(tmp_path / "out").verify()


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"version": 1', "damaged"), (b"", "damaged"), (b"[]", "damaged")]
)
def test_a_damaged_manifest_is_an_error_not_an_empty_dataset(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema, content: bytes, message: str
) -> None:
    shards(tmp_path, make_csv, schema)
    (tmp_path / "out" / manifest_path(1)).write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        open_dataset(tmp_path / "out")


def test_a_manifest_of_a_newer_format_is_refused(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    shards(tmp_path, make_csv, schema)
    path = tmp_path / "out" / manifest_path(1)
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(PipelineError, match="format 2, this program reads up to 1"):
        open_dataset(tmp_path / "out")


def test_orphans_are_removed_by_age_and_published_files_never(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    kept = shards(tmp_path, make_csv, schema)
    root = tmp_path / "out"
    orphan = root / "data" / "0123" / "left.arrow"
    orphan.parent.mkdir()
    orphan.write_bytes(b"left by a crash")
    now = orphan.stat().st_mtime
    assert collect_orphans(root, age_s_min=60, now=now + 59) == []
    removed = collect_orphans(root, age_s_min=60, now=now + 3600)
    assert orphan.relative_to(root).as_posix() in removed
    assert not orphan.parent.exists()
    assert all(path.exists() for path in kept)
    open_dataset(root).verify()
    with pytest.raises(PipelineError, match="not a dataset"):
        collect_orphans(tmp_path)


def test_a_run_that_is_taken_up_again_is_no_orphan(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    """Its finished tasks are as old as the try that did them."""
    out, age_s = tmp_path / "out", 30 * 86_400.0
    tries = 0

    def collects_in_the_last_task(batch: pa.RecordBatch) -> pa.RecordBatch:
        nonlocal tries
        if 999 in batch.column("id").to_pylist():
            tries += 1
            if tries == 1:
                raise RuntimeError("the last task fails")
            assert collect_orphans(out, age_s_min=age_s / 2) == []
        return batch

    scan = Plan.scan(csv(make_csv(), schema, split_bytes=5000))
    plan = scan.map_batches(collects_in_the_last_task, schema=schema, identity="v1").write(out)
    with pytest.raises(PipelineError, match="the last task fails"):
        run(plan)
    for path in out.rglob("data/*/*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age_s))
    assert run(plan).tasks_resumed == len(plan.splits) - 1
    open_dataset(out).verify()
    assert open_dataset(out).rows == 1000


def test_many_collect_orphans_at_once(tmp_path: Path) -> None:
    run(Plan.scan(table(pa.table({"x": [1]}))).write(tmp_path))
    for round_ in range(5):
        for number in range(40):
            folder = tmp_path / "data" / f"{round_}-{number}"
            folder.mkdir()
            (folder / "left.arrow").write_bytes(b"left by a crash")
        assert all(race([lambda: bool(collect_orphans(tmp_path, age_s_min=-60)) or True] * 6))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [
        run.run_id for run in open_dataset(tmp_path).runs
    ]
    open_dataset(tmp_path).verify()


def test_a_copy_is_never_taken_for_that_of_another_dataset(tmp_path: Path) -> None:
    data = table(pa.table({"zone": ["north", "south"], "x": [1, 2]}))
    run(Plan.scan(data).write(tmp_path / "out", partition_by="zone"))
    dataset, copy = open_dataset(tmp_path / "out"), tmp_path / "copy"
    north = dataset.where(zone="north")
    for _ in range(2):
        assert north.fetch(copy).to_table()["x"].to_pylist() == [1]
    for other in (dataset.where(zone="south"), dataset):
        with pytest.raises(PipelineError, match="another dataset, or other partitions"):
            other.fetch(copy)
    assert open_dataset(copy).digest == north.digest


def test_a_copy_that_fails_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    run(Plan.scan(table(pa.table({"x": [1]}))).write(tmp_path / "out"))
    dataset = open_dataset(tmp_path / "out")
    (tmp_path / "out" / dataset.files[0].path).unlink()
    with pytest.raises(FileNotFoundError):
        dataset.fetch(tmp_path / "copy")
    assert [path for path in (tmp_path / "copy").rglob("*") if path.is_file()] == []


def test_a_dataset_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no dataset"):
        open_dataset(tmp_path)


def test_shards_are_plain_arrow_files_with_aligned_batches(
    tmp_path: Path, make_csv: MakeCsv, schema: pa.Schema
) -> None:
    plan = Plan.scan(csv(make_csv(rows=5000), schema)).write(tmp_path / "out", batch_bytes=1)
    run(plan)
    (file,) = open_dataset(tmp_path / "out").files
    mapped = pa.memory_map(str(tmp_path / "out" / file.path))
    base = mapped.read_buffer()
    with pa.ipc.open_file(base) as reader:
        batches = [reader.get_batch(at) for at in range(reader.num_record_batches)]
    assert [batch.num_rows for batch in batches] == [256] * 19 + [136]
    for batch in batches:
        for column in batch.columns[:2]:
            assert (column.buffers()[1].address - base.address) % 64 == 0
