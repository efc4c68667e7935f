"""Addresses that are none, and what they may have in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from mlsched.errors import ConfigError, MlschedError, PipelineError
from mlsched_pipelines import Plan, arrow, collect_orphans, csv, open_dataset, parquet, table

TEXTS = pa.schema([("a", pa.int64()), ("b", pa.string())])


@pytest.mark.parametrize(
    "address",
    [
        "https://host.example/in.csv?X-Amz-Credential=K&X-Amz-Signature=CANARY",
        "https://user:CANARY@host.example/in.csv",
        "s3a://KEY:CANARY@bucket/in.csv",
        "s3:/KEY:CANARY@bucket/in.csv",
        "s3://KEY:CANARY/x@bucket/*/in.csv",
        "s3://KEY:CANARY@bucket/in.csv",
    ],
)
def test_addresses_are_refused_without_what_is_secret_in_them(address: str) -> None:
    data = table(pa.table({"a": [1]}))
    calls: list[Callable[[], Any]] = [
        lambda: Plan.scan(csv(address, TEXTS)),
        lambda: parquet(address),
        lambda: arrow(address),
        lambda: open_dataset(address),
        lambda: collect_orphans(address),
        lambda: Plan.scan(data).write(address),
    ]
    for call in calls:
        with pytest.raises(MlschedError) as caught:
            call()
        assert isinstance(caught.value, (ConfigError, PipelineError))
        assert "CANARY" not in repr(caught.value) + caught.value.hint
        assert caught.value.hint
