"""The store on S3: Ceph's real gateway, a bad network before it, and servers that are none."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import (
    ConfigError,
    MlschedError,
    PipelineError,
    StoreFullError,
    UnreachableError,
)
from mlsched_pipelines.stores import Store, clients, open_store, s3
from tests.controlplane.credentials import Authority
from tests.storage.ceph import Gateway, free_port
from tests.storage.racers import race
from tests.storage.servers import (
    CUT,
    LOST,
    Fault,
    FaultProxy,
    Seen,
    rclone,
    silent_server,
    tls_server,
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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are given up after a second or two."""
    monkeypatch.setattr(clients, "ANSWER_S_MAX", 0.4)
    monkeypatch.setattr(clients, "RETRY_S_MAX", 0.8)
    monkeypatch.setattr(clients, "CONNECT_S_MAX", 0.4)
    monkeypatch.setattr(s3, "PUT_S_MAX", 1.0)


def first(fault: Fault, method: str) -> Callable[[Seen], Fault | None]:
    """Let the first request of a method have a fault."""
    waiting = [fault]
    return lambda seen: waiting.pop() if waiting and seen.method == method else None


def error_of(call: Callable[..., Any], *args: Any) -> MlschedError:
    """The error of ours that a call ends in, which carries none of the library's."""
    with pytest.raises(MlschedError) as caught:
        call(*args)
    assert caught.value.__context__ is None
    assert caught.value.hint
    return caught.value


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
    gateway: Gateway, bucket: str, proxy: FaultProxy, s3_url: str, impatient: None
) -> None:
    store = open_store(s3_url)
    source = store.scratch("data")
    source.write_bytes(os.urandom(30 << 20))
    proxy.choose = lambda seen: Fault(False, 503) if "partNumber=3" in seen.target else None
    assert isinstance(error_of(store.put_file, source, "data/x"), UnreachableError)
    assert source.exists()
    assert store.list_files("data") == []
    assert "Uploads" not in gateway.client().list_multipart_uploads(Bucket=bucket)
    proxy.choose = first(Fault(False, 503), "PUT")
    content = source.read_bytes()
    store.put_file(source, "data/x")
    assert store.read("data/x") == content


# Racing processes


@needs_ceph
@pytest.mark.slow
def test_one_of_many_processes_creates_a_name(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
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


# What goes wrong


@needs_ceph
def test_a_missing_bucket(use_s3: UseS3, gateway: Gateway, tmp_path: Path) -> None:
    use_s3(**gateway.environment())
    store = open_store("s3://no-such-bucket/data")
    source = tmp_path / "x"
    source.write_bytes(b"x")
    calls: list[Callable[[], Any]] = [
        store.check,
        lambda: store.read("x"),
        lambda: store.open("x"),
        lambda: store.size("x"),
        lambda: store.list_files(""),
        lambda: store.put_new("x", b""),
        lambda: store.put_file(source, "x"),
        lambda: store.delete(["x"]),
    ]
    for call in calls:
        error = error_of(call)
        assert isinstance(error, PipelineError)
        assert "no bucket 'no-such-bucket'" in error.message
    assert source.exists()


@needs_ceph
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys_show_in_no_error(
    gateway: Gateway,
    bucket: str,
    use_s3: UseS3,
    name: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(0)
    canary = "CANARY" + uuid.uuid4().hex
    use_s3(**{**gateway.environment(), name: canary})
    store = open_store(f"s3://{bucket}/data")
    calls: list[Callable[[], Any]] = [
        store.check,
        lambda: store.read("x"),
        lambda: store.size("x"),
        lambda: store.open("x"),
        lambda: store.list_files(""),
        lambda: store.put_new("x", b""),
        lambda: store.delete(["x"]),
    ]
    secrets = {canary, gateway.secret_key}
    shown: list[str] = []
    for call in calls:
        error = error_of(call)
        assert isinstance(error, PipelineError)
        shown += [repr(error), error.hint, repr(error.__cause__), str(pickle.dumps(error))]
    client = clients.find_client(bucket)
    shown += [repr(store), str(vars(store)), str(pickle.dumps(store)), repr(client)]
    shown += [repr(vars(client)), repr(vars(clients._state)), caplog.text, *capfd.readouterr()]
    text = "\n".join(shown)
    assert not [secret for secret in secrets if secret in text]
    with pytest.raises(TypeError):
        pickle.dumps(client.store.credential_provider)


@needs_ceph
def test_good_keys_show_nowhere(
    gateway: Gateway, store: Store, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    store.check()
    store.put_new("x", b"1")
    client = clients.find_client(bucket)
    text = "\n".join(
        [repr(store), str(pickle.dumps(store)), repr(client), repr(vars(client)), caplog.text]
    )
    assert gateway.secret_key not in text
    assert gateway.secret_key not in repr(client.store.config)


def test_addresses_with_secrets_are_not_repeated() -> None:
    for address in ("s3://KEY:CANARY@bucket/x", "s3://ab", "s3://", "s3://b u/x?secret=CANARY"):
        error = error_of(open_store, address)
        assert isinstance(error, ConfigError)
        assert "CANARY" not in repr(error) + error.hint
    for address in ("s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/."):
        assert isinstance(error_of(open_store, address), ConfigError)
    assert open_store("s3://bucket").url == open_store("s3://bucket/").url == "s3://bucket"
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"


def test_a_server_that_is_not_there(use_s3: UseS3, impatient: None) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S"}
    for endpoint in (f"http://127.0.0.1:{free_port()}", "http://no-such-host.invalid"):
        use_s3(AWS_ENDPOINT_URL_S3=endpoint, **keys)
        store = open_store("s3://bucket/data")
        for call, args in ((store.read, ("x",)), (store.put_new, ("x", b"")), (store.check, ())):
            began = time.monotonic()
            error = error_of(call, *args)
            assert isinstance(error, UnreachableError)
            assert endpoint in error.message
            assert time.monotonic() - began < 10


def test_a_server_that_says_nothing(use_s3: UseS3, impatient: None, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"x")
    with silent_server() as endpoint:
        use_s3(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="K", AWS_SECRET_ACCESS_KEY="S")
        store = open_store("s3://bucket/data")
        calls: list[Callable[[], Any]] = [
            store.check,
            lambda: store.read("x"),
            lambda: store.list_files(""),
            lambda: store.put_file(source, "x"),
            lambda: store.delete(["x"]),
        ]
        for call in calls:
            began = time.monotonic()
            assert isinstance(error_of(call), UnreachableError)
            assert time.monotonic() - began < 10
    assert source.exists()


ANSWERS = [
    (Fault(False, 500, b"<html>CANARY"), UnreachableError, "500"),
    (Fault(False, 503, b"<Error><Code>SlowDown</Code></Error>"), UnreachableError, "SlowDown"),
    (Fault(False, 507, b""), StoreFullError, "quota"),
    (Fault(False, 403, b"<Error><Code>QuotaExceeded</Code></Error>"), StoreFullError, "quota"),
    (Fault(False, 403, b"<Error><Code>AccessDenied</Code></Error>"), PipelineError, "AccessDen"),
    (Fault(False, 403, b"<Error><Code>RequestTimeTooSkewed</Code>"), PipelineError, "clocks"),
    (Fault(False, 400, b"<Error><Code>AuthorizationHeaderMalformed</Code>"), PipelineError, "Auth"),
    (Fault(False, 404, b"<html>nginx CANARY"), PipelineError, "404"),
    (Fault(False, 405, b"CANARY"), PipelineError, "405"),
    (Fault(False, 501, b"<Code>NotImplemented</Code>"), PipelineError, "501"),
    (CUT, UnreachableError, "does not answer"),
]


@pytest.mark.parametrize(("fault", "kind", "word"), ANSWERS)
def test_answers_that_help_nobody(
    use_s3: UseS3, impatient: None, fault: Fault, kind: type[MlschedError], word: str
) -> None:
    with FaultProxy() as server:
        server.choose = lambda _: fault
        use_s3(AWS_ENDPOINT_URL=server.endpoint, AWS_ACCESS_KEY_ID="K", AWS_SECRET_ACCESS_KEY="S")
        store = open_store("s3://bucket/data")
        for call, args in ((store.put_new, ("x", b"")), (store.check, ())):
            error = error_of(call, *args)
            assert type(error) is kind
            assert word in error.message
            assert "CANARY" not in repr(error) + error.hint


@needs_ceph
def test_a_full_quota(gateway: Gateway) -> None:
    user, keys = uuid.uuid4().hex[:12], (f"AK{uuid.uuid4().hex[:16]}", uuid.uuid4().hex)
    gateway.admin(
        *("user", "create", f"--uid={user}", f"--display-name={user}"),
        *(f"--access-key={keys[0]}", f"--secret-key={keys[1]}"),
    )
    gateway.admin("quota", "set", "--quota-scope=user", f"--uid={user}", "--max-objects=1")
    gateway.admin("quota", "enable", "--quota-scope=user", f"--uid={user}")
    theirs = Gateway(gateway.endpoint, *keys, gateway.config, 0)
    theirs.client().create_bucket(Bucket=f"quota-{user}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in theirs.environment().items():
            patch.setenv(name, value)
        store = open_store(f"s3://quota-{user}/data")
        assert store.put_new("first", b"1")
        error = error_of(store.put_new, "second", b"2")
        assert isinstance(error, StoreFullError)
        assert store.read("first") == b"1"


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that only ``ca.pem`` knows; ``server.pem`` is for 127.0.0.1."""
    made = Authority()
    (tmp_path / "ca.pem").write_bytes(made.pem)
    for name, host in (("server", "127.0.0.1"), ("other", "other.example")):
        certificate, key = made.server([host])
        (tmp_path / f"{name}.pem").write_bytes(certificate)
        (tmp_path / f"{name}.key").write_bytes(key)
    return made


@needs_ceph
def test_certificates(
    gateway: Gateway,
    bucket: str,
    authority: Authority,
    use_s3: UseS3,
    tmp_path: Path,
    impatient: None,
) -> None:
    ca_file = str(tmp_path / "ca.pem")
    for name, trusted, works in (
        ("server", {"AWS_CA_BUNDLE": ca_file}, True),
        ("server", {}, False),
        ("other", {"AWS_CA_BUNDLE": ca_file}, False),
    ):
        tls = tls_server(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        with FaultProxy(gateway.endpoint, tls) as proxy:
            use_s3(**{**gateway.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint, **trusted})
            store = open_store(f"s3://{bucket}/{uuid.uuid4().hex}")
            if works:
                assert store.put_new("x", b"1")
                continue
            error = error_of(store.read, "x")
            assert isinstance(error, ConfigError)
            assert "AWS_CA_BUNDLE" in error.hint


@needs_ceph
def test_tls_where_there_is_none(
    gateway: Gateway, bucket: str, use_s3: UseS3, impatient: None
) -> None:
    endpoint = gateway.endpoint.replace("http:", "https:")
    use_s3(**{**gateway.environment(), "AWS_ENDPOINT_URL_S3": endpoint})
    error = error_of(open_store(f"s3://{bucket}/data").read, "x")
    assert isinstance(error, ConfigError)
    assert "http://" in error.hint


def test_plain_http_to_a_server_with_tls(
    authority: Authority, use_s3: UseS3, tmp_path: Path, impatient: None
) -> None:
    with FaultProxy("", tls_server(tmp_path / "server.pem", tmp_path / "server.key")) as server:
        endpoint = server.endpoint.replace("https:", "http:")
        use_s3(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="K", AWS_SECRET_ACCESS_KEY="S")
        error_of(open_store("s3://bucket/data").read, "x")


# Credentials


@needs_ceph
def test_keys_that_expire_are_renewed(
    gateway: Gateway,
    bucket: str,
    use_s3: UseS3,
    tmp_path: Path,
) -> None:
    """A program gives keys for a while; the old ones are taken away before their time."""
    user = uuid.uuid4().hex[:12]
    keys = [(f"AK{number}{uuid.uuid4().hex[:16]}", uuid.uuid4().hex) for number in range(2)]
    gateway.admin("user", "create", f"--uid={user}", f"--display-name={user}", "--max-buckets=0")
    for access_key, secret_key in keys:
        gateway.admin(
            *("key", "create", f"--uid={user}", "--key-type=s3"),
            *(f"--access-key={access_key}", f"--secret-key={secret_key}"),
        )
    name = f"keys-{user}"
    Gateway(gateway.endpoint, *keys[0], gateway.config, 0).client().create_bucket(Bucket=name)
    answer = (
        '{{"Version": 1, "AccessKeyId": "{}", "SecretAccessKey": "{}", "SessionToken": "",'
        ' "Expiration": "2099-01-01T00:00:00Z"}}'
    )
    (tmp_path / "keys.json").write_text(answer.format(*keys[0]))
    config = tmp_path / "config"
    config.write_text(
        f"[profile rotating]\ncredential_process = cat {tmp_path}/keys.json\n"
        f"region = default\nendpoint_url = {gateway.endpoint}\n"
    )
    use_s3(AWS_CONFIG_FILE=str(config), AWS_PROFILE="rotating")
    store = open_store(f"s3://{name}/data")
    assert store.put_new("x", b"1")
    (tmp_path / "keys.json").write_text(answer.format(*keys[1]))
    gateway.admin("key", "rm", f"--uid={user}", "--key-type=s3", f"--access-key={keys[0][0]}")
    assert store.read("x") == b"1"
    assert store.put_new("y", b"2")


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
