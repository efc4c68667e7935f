"""Servers of S3 that fail or refuse: errors of ours, soon, and without a secret."""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import (
    ConfigError,
    ConflictError,
    MlschedError,
    PipelineError,
    StoreFullError,
    UnreachableError,
)
from mlsched_pipelines.stores import clients, open_store
from tests.storage.ceph import Gateway, free_port
from tests.storage.fixtures import error_of
from tests.storage.servers import CUT, Fault, FaultProxy, silent_server

needs_ceph = pytest.mark.needs_ceph
UseS3 = Callable[..., None]


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
    gateway: Gateway, s3_url: str, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    store = open_store(s3_url)
    store.check()
    store.put_new("x", b"1")
    client = clients.find_client(bucket)
    text = "\n".join(
        [repr(store), str(pickle.dumps(store)), repr(client), repr(vars(client)), caplog.text]
    )
    assert gateway.secret_key not in text
    assert gateway.secret_key not in repr(client.store.config)


def test_keys_show_in_no_log_of_an_upload_in_parts(
    use_s3: UseS3, impatient: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    source = tmp_path / "x"
    source.write_bytes(b"x" * (17 << 20))
    with FaultProxy() as server:
        server.choose = lambda _: Fault(False, 403, b"<Error><Code>AccessDenied</Code></Error>")
        use_s3(AWS_ENDPOINT_URL=server.endpoint, **{name: f"CANARY{name}" for name in names})
        error_of(open_store("s3://bucket/data").put_file, source, "x")
        assert [seen.method for seen in server.seen] == ["POST"]
    assert "CANARY" not in caplog.text


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


def test_a_server_that_is_always_in_conflict(use_s3: UseS3, impatient: None) -> None:
    """It refuses to create an object that is not there: a write to it never ends."""
    refusals = {
        "PUT": Fault(False, 409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
        "GET": Fault(False, 404, b"<Error><Code>NoSuchKey</Code></Error>"),
        "HEAD": Fault(False, 404),
    }
    with FaultProxy() as server:
        server.choose = lambda seen: refusals[seen.method]
        use_s3(AWS_ENDPOINT_URL=server.endpoint, AWS_ACCESS_KEY_ID="K", AWS_SECRET_ACCESS_KEY="S")
        error = error_of(open_store("s3://bucket/data").put_new, "x", b"")
        assert isinstance(error, ConflictError)
        assert "s3://bucket/data/x" in error.message
        assert len(server.seen) < 20


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
