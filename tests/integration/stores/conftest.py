"""What the tests of stores share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsched_pipelines.stores import Store, open_store
from tests.storage.fixtures import bucket, gateway, impatient, s3_url, use_s3

__all__ = ["bucket", "gateway", "impatient", "s3_url", "use_s3"]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.needs_ceph)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "local":
        return open_store(tmp_path / "store")
    return open_store(request.getfixturevalue("s3_url"))
