"""What every store promises, on a real file system and on Ceph's S3 gateway."""

from __future__ import annotations

import os
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from mlsched_pipelines.stores import Store

RACES, RACERS = 50, 16
ODD_NAMES = (
    "a b", "a+b", "a%b", "a%20b", "a~b", "..x", ".hidden", "x#y?z&w=1", "a*b", "a:b", "a'b",
    'a"b', "a\\b", "[a]{b}|^`<c>", "ünï", "日本", "kind=a b", "=", "a" * 200,
)  # fmt: skip


def upload(store: Store, path: str, data: bytes) -> Path:
    """Put a file by way of the scratch folder; where it was."""
    source = store.scratch(str(Path(path).parent))
    source.write_bytes(data)
    store.put_file(source, path)
    return source


def test_a_missing_file(store: Store) -> None:
    for look in (store.read, store.open, store.size):
        with pytest.raises(FileNotFoundError):
            look("data/none")
    assert store.list_files("data") == []
    assert store.list_folders("data") == []
    store.delete(["data/none", "none"])
    store.delete([])


def test_a_name_is_created_once_and_keeps_its_content(store: Store) -> None:
    before = time.time()
    assert store.put_new("manifest/v1", b"first")
    assert not store.put_new("manifest/v1", b"other")
    assert store.read("manifest/v1") == b"first"
    assert store.size("manifest/v1") == 5
    (entry,) = store.list_files("manifest")
    assert (entry.path, entry.size_bytes) == ("manifest/v1", 5)
    assert before - 5 < entry.changed_at < time.time() + 5


def test_a_deleted_name_can_be_created_again(store: Store) -> None:
    assert store.put_new("v1", b"first")
    store.delete(["v1"])
    assert store.put_new("v1", b"second")
    assert store.read("v1") == b"second"


@pytest.mark.parametrize("size_bytes", [0, 1, 5 << 20])
def test_any_size_by_put_new(store: Store, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    assert store.put_new("x", data)
    assert store.read("x") == data
    with store.open("x") as file:
        assert file.size() == size_bytes
        assert file.read() == data


@pytest.mark.parametrize("size_bytes", [0, 1, (40 << 20) + 7])
def test_a_file_is_taken_over_and_replaces_another(store: Store, size_bytes: int) -> None:
    upload(store, "data/run/x.arrow", b"old")
    data = os.urandom(size_bytes)
    source = upload(store, "data/run/x.arrow", data)
    assert not source.exists()
    assert store.size("data/run/x.arrow") == size_bytes
    assert store.read("data/run/x.arrow") == data
    assert [entry.path for entry in store.list_files("data/run")] == ["data/run/x.arrow"]


def test_scratch_names_are_new_and_unlisted(store: Store) -> None:
    paths = [store.scratch("data/run") for _ in range(20)]
    assert len(set(paths)) == 20
    for path in paths:
        assert not path.exists()
        path.write_bytes(b"x")
    assert store.list_files("data/run") == []
    for path in paths:
        path.unlink()


def test_folders_and_files_are_told_apart(store: Store) -> None:
    for path in ("top", "a/x", "a/b/y", "a/b/c/z", "a/c/z", "ab/x", "a.x/x"):
        assert store.put_new(path, b"")
    assert [entry.path for entry in store.list_files("")] == ["top"]
    assert store.list_folders("") == ["a", "a.x", "ab"]
    assert [entry.path for entry in store.list_files("a")] == ["a/x"]
    assert store.list_folders("a") == ["a/b", "a/c"]
    assert store.list_folders("a/b") == ["a/b/c"]
    assert store.list_folders("a/b/c") == []


def test_odd_names(store: Store) -> None:
    for number, name in enumerate(ODD_NAMES):
        assert store.put_new(f"odd/{name}", str(number).encode())
        assert store.put_new(f"in {name}/x", b"")
    for number, name in enumerate(ODD_NAMES):
        assert store.read(f"odd/{name}") == str(number).encode()
        assert not store.put_new(f"odd/{name}", b"again")
        assert [entry.path for entry in store.list_files(f"in {name}")] == [f"in {name}/x"]
    expected = sorted(f"odd/{name}" for name in ODD_NAMES)
    assert [entry.path for entry in store.list_files("odd")] == expected
    assert store.list_folders("") == sorted(["odd", *(f"in {name}" for name in ODD_NAMES)])
    store.delete(expected)
    assert store.list_files("odd") == []


@pytest.mark.slow
def test_more_than_a_page(store: Store) -> None:
    names = [f"many/{number:05d}" for number in range(1100)]
    folders = [f"folders/{number:05d}/x" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: store.put_new(name, b"x"), names + folders))
    assert [entry.path for entry in store.list_files("many")] == names
    assert store.list_folders("folders") == [name.rpartition("/")[0] for name in folders]
    store.delete([*names, "many/none", *folders])
    assert store.list_files("many") == []
    assert store.list_folders("folders") == []


def test_random_access(store: Store) -> None:
    data = random.Random(1).randbytes((3 << 20) + 11)
    upload(store, "x", data)
    rng = random.Random(2)
    with store.open("x") as file:
        assert file.size() == len(data)
        for _ in range(200):
            start = rng.randrange(len(data))
            size = rng.choice([1, 100, 65_536, 1 << 20, len(data)])
            file.seek(start)
            assert file.read(size) == data[start : start + size]
            if rng.random() < 0.3:
                assert file.read(100) == data[start + size :][:100]
        file.seek(len(data))
        assert file.read(10) == b""


def test_arrow_and_parquet_files(store: Store) -> None:
    rng = random.Random(3)
    rows = 50_000
    table = pa.table(
        {
            "id": list(range(rows)),
            "value": [rng.random() for _ in range(rows)],
            "text": ["ü"] * rows,
        }
    )
    path = store.scratch("data")
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=1024)
    store.put_file(path, "data/x.arrow")
    path = store.scratch("data")
    pq.write_table(table, str(path), row_group_size=5000)
    store.put_file(path, "data/x.parquet")
    with store.open("data/x.arrow") as file:
        opened = pa.ipc.open_file(file)
        assert opened.get_batch(17).equals(table.slice(17 * 1024, 1024).to_batches()[0])
        assert opened.read_all().equals(table)
    for pre_buffer in (False, True):
        with store.open("data/x.parquet") as file:
            found = pq.ParquetFile(file, pre_buffer=pre_buffer).read(columns=["text", "id"])
            assert found.equals(table.select(["text", "id"]))


@pytest.mark.slow
def test_one_of_many_threads_creates_a_name(store: Store) -> None:
    barrier = threading.Barrier(RACERS)

    def race(racer: int) -> list[bool]:
        won = []
        for number in range(RACES):
            barrier.wait()
            won.append(store.put_new(f"race/{number}", f"{racer}".encode() * 5000))
        return won

    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(race, range(RACERS)))
    for number in range(RACES):
        winners = [racer for racer in range(RACERS) if results[racer][number]]
        assert len(winners) == 1
        assert store.read(f"race/{number}") == f"{winners[0]}".encode() * 5000


def test_it_travels(store: Store) -> None:
    store.put_new("x", b"here")
    again = pickle.loads(pickle.dumps(store))
    assert again.url == store.url
    assert again.read("x") == b"here"


def test_a_check_leaves_nothing(store: Store) -> None:
    store.check()
    store.check()
    assert store.list_files("") == []
    assert store.list_folders("") == []
