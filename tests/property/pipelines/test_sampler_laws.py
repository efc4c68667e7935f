"""Laws of the order of samples, over all sizes."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsched_pipelines.sampler import Bijection, Order


@given(n=st.integers(1, 3000), key=st.binary(max_size=20))
def test_the_bijection_is_a_permutation_and_its_inverse_undoes_it(n: int, key: bytes) -> None:
    everything = np.arange(n, dtype=np.int64)
    bijection = Bijection(n, key)
    values = bijection.forward(everything)
    assert np.array_equal(np.sort(values), everything)
    assert np.array_equal(bijection.inverse(values), everything)


@given(n=st.integers(1, 1 << 48), position=st.integers(0, (1 << 48) - 1))
def test_the_bijection_stays_in_any_domain(n: int, position: int) -> None:
    position %= n
    value = Bijection(n, b"k").forward(np.array([position], dtype=np.int64))
    assert 0 <= int(value[0]) < n
    assert int(Bijection(n, b"k").inverse(value)[0]) == position


orders = st.builds(
    lambda rows, seed, epoch, block, window: Order(
        rows, seed, epoch, block_rows=block, window=window
    ),
    st.integers(1, 2000),
    st.integers(0, 2**64 - 1),
    st.integers(0, 50),
    st.integers(1, 70),
    st.integers(0, 9),
)


@given(order=orders)
def test_an_epoch_gives_every_row_once(order: Order) -> None:
    assert np.array_equal(np.sort(order.range(0, order.rows)), np.arange(order.rows))


@given(order=orders, data=st.data())
def test_any_range_of_an_epoch_can_be_had_on_its_own(order: Order, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, order.rows))
    stop = data.draw(st.integers(start, order.rows))
    assert np.array_equal(order.range(start, stop), order.range(0, order.rows)[start:stop])


@given(rows=st.integers(50, 2000), seed=st.integers(0, 1000))
def test_seeds_and_epochs_give_different_orders(rows: int, seed: int) -> None:
    def whole(seed: int, epoch: int) -> bytes:
        return Order(rows, seed, epoch, block_rows=10, window=3).range(0, rows).tobytes()

    assert len({whole(seed, 0), whole(seed + 1, 0), whole(seed, 1)}) == 3


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_a_wider_window_mixes_batches_better(seed: int) -> None:
    scores = [
        Order(10_000, seed, 0, block_rows=100, window=window).quality(64).batch_diversity
        for window in (0, 1, 4, 16, 100)
    ]
    assert scores == sorted(scores)
    assert scores[-1] > 0.99


def test_an_order_is_the_same_in_every_version() -> None:
    """A checkpoint of today is read by the program of tomorrow: these bits may never change."""
    order = Order(100_003, 7, 2, block_rows=256, window=16).range(0, 100_003)
    assert order[:5].tolist() == FIRST_FIVE
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == SHA256


FIRST_FIVE = [59194, 59150, 14316, 59300, 79250]
SHA256 = "eabf2f648422b8c27530cb6e7c88c371c83a431f301a25610ba52f85d3f51a08"
