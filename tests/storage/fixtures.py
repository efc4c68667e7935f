"""Fixtures on a real Ceph; a conftest.py imports the ones that its folder uses.

Tests that use them are marked ``needs_ceph``. All worker processes of a run share one Ceph, so a
test makes a bucket of its own, by ``bucket``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
    """Set AWS's variables, and only those; nothing of the machine's own configuration counts."""

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


@pytest.fixture
def s3_url(gateway: Gateway, bucket: str, use_s3: Callable[..., None]) -> str:
    """The address of an empty store in a new bucket, which this process can reach."""
    use_s3(**gateway.environment())
    return f"s3://{bucket}/data sets/one"
