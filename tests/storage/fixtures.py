"""Fixtures on a real Ceph; a conftest.py imports the ones that its folder uses.

Tests that use them are marked ``needs_ceph``. All worker processes of a run share one Ceph, so a
test makes a bucket of its own, by ``bucket``.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import MlschedError
from mlsched_pipelines.stores import scratches
from tests.storage.ceph import Gateway
from tests.storage.holder import shared_gateway


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """The S3 gateway of the Ceph that all workers share."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with shared_gateway(f"ceph-{run}") as found:
        yield found


@pytest.fixture
def bucket(gateway: Gateway) -> str:
    """The name of a new, empty bucket; it goes with the Ceph."""
    name = f"test-{uuid.uuid4().hex[:20]}"
    gateway.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def use_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Set AWS's variables, and only those; nothing of the machine's own configuration counts.

    Scratch folders go below the test's own: worker processes of xdist end without clearing up.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch = scratches._Scratch()
    monkeypatch.setattr(scratches, "_scratch", scratch)

    def use(**variables: str) -> None:
        for name in [each for each in os.environ if each.startswith("AWS_")]:
            monkeypatch.delenv(name)
        nowhere = {
            "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in {**nowhere, **variables}.items():
            monkeypatch.setenv(name, value)

    use()
    yield use
    from mlsched_pipelines.stores.clients import forget_clients

    forget_clients()
    with suppress(OSError):
        os.close(scratch.handle)


@pytest.fixture
def s3_url(gateway: Gateway, bucket: str, use_s3: Callable[..., None]) -> str:
    """The address of an empty store in a new bucket, which this process can reach."""
    use_s3(**gateway.environment())
    return f"s3://{bucket}/data sets/one"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are given up after a second or two."""
    from mlsched_pipelines.stores import clients, s3

    monkeypatch.setattr(clients, "ANSWER_S_MAX", 0.4)
    monkeypatch.setattr(clients, "RETRY_S_MAX", 0.8)
    monkeypatch.setattr(clients, "CONNECT_S_MAX", 2.0)
    monkeypatch.setattr(s3, "PUT_S_MAX", 1.0)


def error_of(call: Callable[..., Any], *args: Any) -> MlschedError:
    """The error of ours that a call ends in, which carries none of the library's."""
    with pytest.raises(MlschedError) as caught:
        call(*args)
    assert caught.value.__context__ is None
    assert caught.value.hint
    return caught.value
