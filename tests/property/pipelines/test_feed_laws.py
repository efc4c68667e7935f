"""Laws of feed and runs: one global order for all ranks, exact resumption, conserved rows."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsched_pipelines import Dataset, Feed, FeedState, LocalEngine, Plan, open_dataset, run, table
from mlsched_pipelines.feed import Last

ROWS = 1357
WORLD = st.integers(1, 9)
BATCH = st.integers(1, 200)
LAST: st.SearchStrategy[Last] = st.sampled_from(["drop", "pad", "short"])


@pytest.fixture(scope="module")
def dataset() -> Iterator[Dataset]:
    """Several shards of several batches, with columns of every kind."""
    numbers = np.arange(ROWS)
    data = pa.table(
        {
            "id": pa.array(numbers),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(numbers, 6) * 1.5), 6),
            "text": [f"row {number}" for number in numbers],
            "maybe": pa.array([None if n % 5 == 0 else n for n in numbers.tolist()], pa.int32()),
            "flag": pa.array(numbers % 3 == 0),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run(Plan.scan(table(data, split_rows=400)).write(folder, batch_bytes=1))
        yield open_dataset(folder)


def order_of(
    dataset: Dataset, batch: int, world: int, *, epochs: int = 1, last: Last = "drop"
) -> list[list[int]]:
    """The rows of every global batch, put together from all ranks."""
    ranks = [
        Feed(
            dataset,
            batch,
            seed=5,
            rank=rank,
            world_size=world,
            window=3,
            block_rows=32,
            last=last,
            columns=("id",),
        )
        for rank in range(world)
    ]
    steps = zip(*(feed.batches(epochs=epochs) for feed in ranks), strict=True)
    return [[int(i) for part in step for i in part.columns["id"]] for step in steps]


@settings(max_examples=30)
@given(batch=BATCH, world=WORLD, last=LAST)
def test_the_global_order_does_not_depend_on_the_number_of_ranks(
    dataset: Dataset, batch: int, world: int, last: Last
) -> None:
    assert order_of(dataset, batch, world, last=last) == order_of(dataset, batch, 1, last=last)


@settings(max_examples=30)
@given(batch=BATCH, last=LAST)
def test_an_epoch_gives_every_row_as_its_end_is_defined(
    dataset: Dataset, batch: int, last: Last
) -> None:
    steps = order_of(dataset, batch, 1, last=last)
    seen = [row for step in steps for row in step]
    whole = ROWS // batch * batch
    if last == "short":
        assert sorted(seen) == list(range(ROWS))
    elif last == "drop":
        assert len(set(seen)) == len(seen) == whole
    else:
        assert sorted(set(seen)) == list(range(ROWS))
        assert {len(step) for step in steps} == {batch}
        assert seen[ROWS:] == seen[: len(seen) - ROWS]


@settings(max_examples=30)
@given(batch=st.integers(30, 200), worlds=st.tuples(WORLD, WORLD), data=st.data())
def test_a_feed_resumes_anywhere_with_any_number_of_ranks(
    dataset: Dataset, batch: int, worlds: tuple[int, int], data: st.DataObject
) -> None:
    whole = hashlib.sha256(repr(order_of(dataset, batch, 1, epochs=2)).encode()).hexdigest()
    total = 2 * (ROWS // batch)
    stop = data.draw(st.integers(0, total))

    def feeds(world: int) -> list[Feed]:
        return [
            Feed(dataset, batch, seed=5, rank=rank, world_size=world, window=3, block_rows=32)
            for rank in range(world)
        ]

    steps: list[list[int]] = []
    state = feeds(1)[0].start
    for parts in zip(*(feed.batches(epochs=2) for feed in feeds(worlds[0])), strict=True):
        if len(steps) == stop:
            break
        steps.append([int(i) for part in parts for i in part.rows])
        assert len({part.state for part in parts}) == 1
        state = parts[0].state
    saved = FeedState.from_bytes(state.to_bytes())
    for parts in zip(*(feed.batches(saved, epochs=2) for feed in feeds(worlds[1])), strict=True):
        steps.append([int(i) for part in parts for i in part.rows])
    assert hashlib.sha256(repr(steps).encode()).hexdigest() == whole


@settings(max_examples=20)
@given(batch=st.integers(5, 200), shuffle=st.booleans(), world=WORLD, data=st.data())
def test_every_column_comes_with_the_rows_it_belongs_to(
    dataset: Dataset, batch: int, shuffle: bool, world: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world - 1))
    whole = dataset.to_table()
    feed = Feed(
        dataset, batch, shuffle=shuffle, rank=rank, world_size=world, window=2, block_rows=50
    )
    for part in feed.batches():
        expected = whole.take(pa.array(part.rows)).to_pylist()
        assert part.arrow().to_pylist() == expected
        part.arrow().validate(full=True)
        found = part.numpy()
        assert found["id"].tolist() == part.rows.tolist()
        assert found["pixels"].shape == (len(part), 6)


@given(states=st.builds(FeedState, *[st.integers(0, 2**32 - 1)] * 5))
def test_states_are_small_and_exact(states: FeedState) -> None:
    assert len(states.to_bytes()) < 100
    assert FeedState.from_bytes(states.to_bytes()) == states


tables = st.lists(
    st.tuples(st.integers(-5, 5), st.floats(width=32), st.text(max_size=3)), max_size=60
).map(
    lambda rows: pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.int64()),
            "b": pa.array([row[1] for row in rows], pa.float64()),
            "c": pa.array([row[2] for row in rows], pa.string()),
        }
    )
)


@settings(max_examples=25)
@given(data=tables, split_rows=st.integers(1, 20), least=st.integers(-5, 5))
def test_no_row_is_lost_and_any_number_of_workers_gives_the_same_bits(
    data: pa.Table, split_rows: int, least: int
) -> None:
    files = []
    for workers in (1, 3):
        with tempfile.TemporaryDirectory() as folder, LocalEngine(workers) as engine:
            plan = (
                Plan.scan(table(data, split_rows=split_rows))
                .filter(pc.field("a") >= least)
                .sort([("a", "descending")])
                .write(Path(folder) / "out", rejects_max=100)
            )
            counts = run(plan, engine=engine).counts
            dataset = open_dataset(Path(folder) / "out")
            files.append(dataset.files)
            found = dataset.to_table()
    assert counts.rows_in == data.num_rows == counts.rows_out + counts.filtered + counts.rejected
    assert files[0] == files[1]
    kept = [row for row in data.to_pylist() if row["a"] >= least]
    assert repr(found.to_pylist()) == repr(sorted(kept, key=lambda row: -row["a"]))
