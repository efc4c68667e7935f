"""The feed on a real dataset: ranks, versions, views and what is refused."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlsched.errors import PipelineError, SchemaMismatchError
from mlsched_pipelines import Dataset, Feed, Plan, open_dataset, run, table

ROWS = 2000


def data_of(first: int) -> pa.Table:
    numbers = np.arange(first, first + ROWS)
    tokens = pa.array(np.repeat(numbers, 8).astype("i4"))
    return pa.table({"id": numbers, "tokens": pa.FixedSizeListArray.from_arrays(tokens, 8)})


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """2000 rows in four shards."""
    run(Plan.scan(table(data_of(0), split_rows=500)).write(tmp_path / "d"), interval="mon")
    return open_dataset(tmp_path / "d")


def test_rank_and_world_size_come_from_the_environment_that_is_given(dataset: Dataset) -> None:
    feed = Feed.from_environment(dataset, 64, {"RANK": "3", "WORLD_SIZE": "4"}, seed=1)
    assert (feed.rank, feed.world_size, feed.seed) == (3, 4, 1)
    assert Feed.from_environment(dataset, 64, {}).world_size == 1
    for wrong in ({"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "x"}):
        with pytest.raises(PipelineError, match=r"[Rr](ank|ANK)"):
            Feed.from_environment(dataset, 64, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"window": 0},
        {"block_rows": 0},
        {"seed": -1},
        {"seed": 1 << 64},
        {"last": "other"},
        {"rank": 1},
        {"batch_size": ROWS + 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(dataset: Dataset, wrong: dict[str, Any]) -> None:
    with pytest.raises(PipelineError):
        Feed(dataset, **({"batch_size": 10} | wrong))


def test_a_column_that_is_not_there_is_refused(dataset: Dataset) -> None:
    with pytest.raises(SchemaMismatchError, match="tokns"):
        Feed(dataset, 10, columns=("tokns",))


def test_rows_in_order_are_views_of_the_mapped_shard(dataset: Dataset) -> None:
    found = [batch.numpy()["tokens"] for batch in Feed(dataset, 50, shuffle=False).batches()]
    assert not any(each.flags.owndata or each.flags.writeable for each in found)
    assert np.concatenate(found)[:, 3].tolist() == list(range(ROWS))


def test_batches_stay_right_after_the_feed_is_gone(dataset: Dataset) -> None:
    kept = [batch.numpy()["id"] for batch in Feed(dataset, 50, shuffle=False).batches()]
    assert np.concatenate(kept).tolist() == list(range(ROWS))


def test_a_commit_during_an_epoch_does_not_change_it(dataset: Dataset) -> None:
    batches = Feed(dataset, 100, seed=2).batches()
    rows = [next(batches).rows]
    run(Plan.scan(table(data_of(ROWS))).write(dataset.root), interval="tue")
    rows += [batch.rows for batch in batches]
    assert sorted(np.concatenate(rows).tolist()) == list(range(ROWS))
    assert open_dataset(dataset.root).rows == 2 * ROWS


def test_a_state_of_another_version_says_which_version_to_open(dataset: Dataset) -> None:
    state = next(Feed(dataset, 100).batches()).state
    run(Plan.scan(table(data_of(ROWS))).write(dataset.root), interval="tue")
    with pytest.raises(PipelineError, match="version 1") as caught:
        next(Feed(open_dataset(dataset.root), 100).batches(state))
    assert "version=1" in caught.value.hint
    old = Feed(open_dataset(dataset.root, version=1), 100)
    assert len(list(old.batches(state))) == 19


@pytest.mark.parametrize(
    "other", [{"batch_size": 50}, {"seed": 3}, {"window": 2}, {"shuffle": False}, {"last": "pad"}]
)
def test_a_state_of_another_order_is_refused(dataset: Dataset, other: dict[str, Any]) -> None:
    state = next(Feed(dataset, 100).batches()).state
    with pytest.raises(PipelineError, match="another order"):
        next(Feed(dataset, **({"batch_size": 100} | other)).batches(state))


def test_a_shard_that_is_truncated_after_opening_is_an_error_not_a_crash(dataset: Dataset) -> None:
    for file in dataset.files:
        os.truncate(dataset.root / file.path, file.size_bytes - 4096)
    with pytest.raises(PipelineError, match="damaged"):
        next(Feed(dataset, 100).batches())


def test_epochs_have_different_orders_and_the_same_rows(dataset: Dataset) -> None:
    rows = [batch.rows.tolist() for batch in Feed(dataset, 100).batches(epochs=2)]
    first, second = [*chain(*rows[:20])], [*chain(*rows[20:])]
    assert first != second
    assert sorted(first) == sorted(second) == list(range(ROWS))


def test_a_null_inside_a_list_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    lists = pa.array([[1.0, None], [2.0, 3.0]], pa.list_(pa.float32(), 2))
    run(Plan.scan(table(pa.table({"x": lists}))).write(tmp_path / "d"), interval="mon")
    with pytest.raises(PipelineError, match="null inside its lists"):
        list(Feed(open_dataset(tmp_path / "d"), 2).batches())


def test_torch_tensors_share_the_memory_of_the_batch(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    batch = next(Feed(dataset, 10).batches())
    tensor = batch.torch()["tokens"]
    assert tensor.dtype == torch.int32
    assert tensor.data_ptr() == batch.numpy()["tokens"].ctypes.data
