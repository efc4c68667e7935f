"""The store on S3: Ceph's real gateway, a bad network before it, and servers that are none."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from mlsched.errors import (
    PipelineError,
    UnreachableError,
)
from mlsched_pipelines import Plan, collect_orphans, open_dataset, run, table
from mlsched_pipelines.stores import Store, clients, open_store
from tests.storage.ceph import Gateway
from tests.storage.fixtures import error_of
from tests.storage.racers import race
from tests.storage.servers import (
    CUT,
    LOST,
    Fault,
    FaultProxy,
    Seen,
    rclone,
)

ROOT = Path(__file__).parents[3]
RACES = 50
needs_ceph = pytest.mark.needs_ceph
UseS3 = Callable[..., None]


@pytest.fixture
def store(s3_url: str) -> Store:
    """An empty store in a new bucket of Ceph."""
    return open_store(s3_url)


@pytest.fixture
def proxy(gateway: Gateway, s3_url: str, use_s3: UseS3) -> Iterator[FaultProxy]:
    """A proxy before the gateway, by which stores of this process reach it."""
    with FaultProxy(gateway.endpoint) as started:
        use_s3(**{**gateway.environment(), "AWS_ENDPOINT_URL_S3": started.endpoint})
        yield started


def first(fault: Fault, method: str) -> Callable[[Seen], Fault | None]:
    """Let the first request of a method have a fault."""
    waiting = [fault]
    return lambda seen: waiting.pop() if waiting and seen.method == method else None


# Lost answers


@needs_ceph
@pytest.mark.parametrize("fault", [LOST, CUT, Fault(True, 500), Fault(False, 503)])
def test_an_object_is_ours_when_the_answer_was_lost(
    proxy: FaultProxy, s3_url: str, fault: Fault
) -> None:
    store = open_store(s3_url)
    proxy.choose = first(fault, "PUT")
    assert store.put_new("x", b"mine")
    assert store.read("x") == b"mine"
    assert len([seen for seen in proxy.seen if seen.method == "PUT"]) == 2
    assert not store.put_new("x", b"other")


@needs_ceph
def test_an_object_is_not_ours_when_another_came_first(proxy: FaultProxy, s3_url: str) -> None:
    store = open_store(s3_url)
    assert store.put_new("x", b"other")
    for fault in (LOST, CUT):
        proxy.choose = first(fault, "PUT")
        assert not store.put_new("x", b"mine")
    assert store.read("x") == b"other"


@needs_ceph
def test_an_object_without_a_writer_is_another_s(
    gateway: Gateway, bucket: str, store: Store
) -> None:
    gateway.client().put_object(Bucket=bucket, Key="data sets/one/x", Body=b"foreign")
    assert not store.put_new("x", b"mine")


@needs_ceph
def test_a_lost_reader_reads_on(proxy: FaultProxy, s3_url: str) -> None:
    store = open_store(s3_url)
    data = os.urandom(3 << 20)
    assert store.put_new("x", data)
    for fault in (CUT, Fault(False, 503), Fault(True, share=0.5)):
        proxy.choose = first(fault, "GET")
        assert store.read("x") == data
        proxy.choose = first(fault, "GET")
        with store.open("x") as file:
            assert file.read() == data


@needs_ceph
def test_an_upload_that_fails_leaves_nothing(
    gateway: Gateway, bucket: str, proxy: FaultProxy, s3_url: str
) -> None:
    store = open_store(s3_url)
    source = store.scratch("data")
    source.write_bytes(os.urandom(30 << 20))
    proxy.choose = lambda seen: Fault(False, 503) if "partNumber=3" in seen.target else None
    assert isinstance(error_of(store.put_file, source, "data/x"), UnreachableError)
    assert source.exists()
    assert store.list_files("data") == []
    assert any(seen.method == "DELETE" for seen in proxy.seen)
    assert "Uploads" not in gateway.client().list_multipart_uploads(Bucket=bucket)
    proxy.choose = first(Fault(False, 503), "PUT")
    content = source.read_bytes()
    store.put_file(source, "data/x")
    assert store.read("data/x") == content


@needs_ceph
def test_parts_are_sent_again_while_the_server_is_busy(proxy: FaultProxy, s3_url: str) -> None:
    store, busy = open_store(s3_url), Fault(False, 503, b"<Error><Code>SlowDown</Code></Error>")
    source = store.scratch("data")
    source.write_bytes(os.urandom(20 << 20))
    faults = [busy] * 4
    proxy.choose = lambda seen: faults.pop() if faults and "partNumber=2" in seen.target else None
    store.put_file(source, "data/x")
    assert (store.size("data/x"), faults) == (20 << 20, [])


@needs_ceph
def test_parts_of_uploads_that_never_ended_are_orphans(
    gateway: Gateway, bucket: str, s3_url: str
) -> None:
    client = gateway.client()
    data = pa.table({"x": [1]})
    run(Plan.scan(table(data)).write(s3_url))
    mine, others = "data sets/one/data/0123/x.arrow", ("data sets/one2/data/x", "data sets/x")
    for key in (mine, mine, *others):
        made = client.create_multipart_upload(Bucket=bucket, Key=key)
        client.upload_part(
            Bucket=bucket, Key=key, UploadId=made["UploadId"], PartNumber=1, Body=b"x"
        )
    found = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    now = max(each["Initiated"].timestamp() for each in found)
    assert collect_orphans(s3_url, age_s_min=60, now=now + 30) == []
    name = "data/0123/x.arrow"
    removed = collect_orphans(s3_url, age_s_min=60, now=now + 90)
    assert [path for path in removed if not path.endswith(".done")] == [name, name]
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted(each["Key"] for each in left) == sorted(others)
    open_dataset(s3_url).verify()


# Racing processes


@needs_ceph
@pytest.mark.slow
def test_one_of_many_processes_creates_a_name(store: Store) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlsched_pipelines.stores.s3", "tests.storage.racers"])
    barrier, results = context.Barrier(8), context.Queue()
    racers = [
        context.Process(target=race, args=(store.url, RACES, barrier, results), daemon=True)
        for _ in range(8)
    ]
    for racer in racers:
        racer.start()
    won = dict(results.get(timeout=90) for _ in racers)
    for racer in racers:
        racer.join(30)
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(RACES))
    for pid, numbers in won.items():
        assert all(store.read(f"race/{number}") == str(pid).encode() for number in numbers)


FORK = """
import os, signal, sys, threading
from mlsched_pipelines.stores import open_store
signal.alarm(60)
store = open_store(sys.argv[1])
assert store.put_new("parent", b"1")
scratch = store.scratch("x").parent
children = []
for number in range(2):
    if not (child := os.fork()):
        signal.alarm(30)
        ok = store.read("parent") == b"1" and store.put_new(f"child-{number}", b"2")
        ok = ok and store.scratch("x").parent != scratch
        if not (grandchild := os.fork()):
            os._exit(0 if store.read(f"child-{number}") == b"2" else 3)
        ok = ok and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if ok else 2)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
assert store.read("child-1") == b"2"
print("done")
"""


@needs_ceph
def test_a_forked_process_has_a_client_of_its_own(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, store.url],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=ROOT,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@needs_ceph
def test_a_process_has_one_client_for_a_bucket(store: Store, s3_url: str, bucket: str) -> None:
    store.put_new("x", b"1")
    one = clients.find_client(bucket)
    open_store(s3_url).read("x")
    open_store(f"s3://{bucket}").list_files("")
    assert clients.find_client(bucket) is one


# Checks


@needs_ceph
def test_a_check_is_remembered(proxy: FaultProxy, s3_url: str) -> None:
    open_store(s3_url).check()
    asked = len(proxy.seen)
    assert asked <= 6
    open_store(s3_url).check()
    assert len(proxy.seen) == asked


def test_a_store_that_ignores_conditions_is_refused(tmp_path: Path, use_s3: UseS3) -> None:
    folder = tmp_path / "buckets"
    (folder / "bucket").mkdir(parents=True)
    with rclone(folder, "KEY", "SECRET") as endpoint:
        use_s3(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="KEY", AWS_SECRET_ACCESS_KEY="SECRET")
        store = open_store("s3://bucket/data")
        for _ in range(2):
            error = error_of(store.check)
            assert isinstance(error, PipelineError)
            assert "ignores If-None-Match" in error.message
            assert "Ceph RGW 16" in error.hint
        assert store.list_folders("") == []
    assert not [path for path in folder.rglob("*") if path.is_file()]


@needs_ceph
def test_a_store_that_hides_what_was_written_is_refused(proxy: FaultProxy, s3_url: str) -> None:
    empty = b'<?xml version="1.0"?><ListBucketResult><Name>x</Name></ListBucketResult>'
    proxy.choose = lambda seen: Fault(False, 200, empty) if "list-type" in seen.target else None
    error = error_of(open_store(s3_url).check)
    assert "does not show what was just written" in error.message
    proxy.choose = lambda _: None
    assert open_store(s3_url).list_folders("") == []


# Files on their way


SCRATCH = """
import os, signal, sys
from mlsched_pipelines.stores.s3 import S3Store
path = S3Store("s3://bucket/x").scratch("data")
path.write_bytes(b"x")
print(path, oct(path.parent.stat().st_mode & 0o777), flush=True)
sys.stdin.readline()
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextlib.contextmanager
def scratching(tmp_path: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a file in its scratch folder."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRATCH, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        path, mode = process.stdout.readline().split()
        assert mode == "0o700"
        assert Path(path).parent.parent == tmp_path
        yield process, Path(path)
        process.communicate("\n", timeout=30)


def test_scratch_folders_go_with_their_process(tmp_path: Path) -> None:
    with scratching(tmp_path, "exit") as (_, kept):
        with scratching(tmp_path, "kill") as (_, left):
            assert kept.exists()
        assert left.exists()
        with scratching(tmp_path, "exit"):
            assert kept.exists()
            assert not left.parent.exists()
    assert list(tmp_path.iterdir()) == []


# Foreign objects


@needs_ceph
def test_objects_that_stand_for_folders(gateway: Gateway, bucket: str, store: Store) -> None:
    client = gateway.client()
    for key in ("data sets/one/", "data sets/one/data/", "data sets/one/data/x"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert store.list_folders("") == ["data"]
    assert store.list_files("") == []
    assert [entry.path for entry in store.list_files("data")] == ["data/x"]
    client.put_object(Bucket=bucket, Key="data sets/one/data//x", Body=b"")
    error = error_of(store.list_files, "data")
    assert isinstance(error, PipelineError)
    assert "empty" in error.message
