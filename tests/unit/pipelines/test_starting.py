"""What engines of our own are started with."""

from __future__ import annotations

import pytest

from mlsched.errors import ConfigError, PipelineError
from mlsched_pipelines.starting import WORKER_BYTES_MIN, share_out


def test_workers_that_have_too_little_memory_each_are_refused_with_the_numbers() -> None:
    memory_bytes = 4 * WORKER_BYTES_MIN
    assert share_out("dask", 4, memory_bytes, "") == (4, memory_bytes)
    with pytest.raises(PipelineError, match=r"256 MiB for 100,000 workers are 2\.6 KiB each") as e:
        share_out("dask", 100_000, memory_bytes, "")
    assert "at most 4 workers" in e.value.hint


def test_a_cluster_of_others_has_its_own_memory() -> None:
    assert share_out("dask", 100_000, None, "dask://host:1")[0] == 100_000
    with pytest.raises(ConfigError, match="memory limits of its own"):
        share_out("dask", 1, 1 << 30, "dask://host:1")
