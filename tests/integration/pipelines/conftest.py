"""Fixtures of the pipeline tests: real input files with known content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.storage.fixtures import bucket, gateway, s3_url, use_s3

__all__ = ["bucket", "gateway", "s3_url", "use_s3"]

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("kind", pa.string()),
    ]
)


@pytest.fixture
def schema() -> pa.Schema:
    """The fields of the files that `make_csv` writes."""
    return SCHEMA


@pytest.fixture
def make_csv(tmp_path: Path) -> Callable[..., Path]:
    """Write a CSV file of ``rows`` rows: id counts up, value is random, kind is one of four."""

    def make(name: str = "in.csv", rows: int = 1000, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        values, kinds = rng.normal(size=rows), rng.integers(0, 4, rows)
        lines = [f"{i},{values[i]!r},k{kinds[i]}" for i in range(rows)]
        lines = [line.replace("np.float64(", "").replace(")", "") for line in lines]
        path = tmp_path / name
        path.write_text("id,value,kind\n" + "\n".join(lines) + "\n")
        return path

    return make
