"""The ledger: what is held, savepoints, and nodes that change under their jobs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mlsched.core.ledger import Ledger
from mlsched.errors import InvariantError
from mlsched.model.jobs import GroupPlacement
from mlsched.model.resources import GroupNeed
from mlsched.testing.builders import node

HELD = (GroupPlacement("a", 2000, 1 << 30, ("GPU-a-0", "GPU-a-1")),)


def test_what_is_taken_is_not_free_and_comes_back() -> None:
    ledger = Ledger([node("a", gpus=4, cpus=8)])
    ledger.take("job", HELD)
    assert [d.uuid for d in ledger.free_devices("a")] == ["GPU-a-2", "GPU-a-3"]
    assert ledger.free_milli_cpus("a") == 6000
    assert ledger.holder_of("GPU-a-1") == "job"
    assert ledger.release("job") == HELD
    assert ledger.free_device_count("a") == 4


def test_rollback_undoes_takes_and_releases() -> None:
    ledger = Ledger([node("a", gpus=4)], {"old": HELD})
    savepoint = ledger.savepoint()
    ledger.release("old")
    ledger.take("new", HELD)
    ledger.rollback(savepoint)
    assert dict(ledger.held) == {"old": HELD}
    assert ledger.free_device_count("a") == 2


def test_a_device_has_one_holder() -> None:
    ledger = Ledger([node("a", gpus=4)], {"old": HELD})
    with pytest.raises(InvariantError, match="one holder a device"):
        ledger.take("new", HELD)


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_a_device_that_two_records_name_is_free_once_both_have_ended(
    order: tuple[str, str],
) -> None:
    ledger = Ledger([node("a", gpus=4)], {"first": HELD})
    ledger.restore("second", HELD)
    assert ledger.is_held_by("GPU-a-1", "first")
    assert ledger.is_held_by("GPU-a-1", "second")
    assert ledger.free_device_count("a") == 2
    savepoint = ledger.savepoint()
    ledger.release(order[0])
    ledger.rollback(savepoint)
    ledger.release(order[0])
    assert (ledger.holder_of("GPU-a-1"), ledger.free_device_count("a")) == (order[1], 2)
    ledger.release(order[1])
    assert (ledger.holder_of("GPU-a-1"), ledger.free_device_count("a")) == (None, 4)


def test_a_job_holds_one_placement() -> None:
    ledger = Ledger([node("a", gpus=4)], {"old": HELD})
    with pytest.raises(InvariantError, match="one placement a job"):
        ledger.take("old", ())


def test_releasing_what_is_not_held_is_no_error() -> None:
    assert Ledger([node("a")]).release("nobody") == ()


def test_jobs_restored_before_their_node_is_seen_count_once_it_is() -> None:
    ledger = Ledger(held={"old": HELD})
    ledger.observe(node("a", gpus=4, cpus=8))
    assert (ledger.free_milli_cpus("a"), ledger.free_device_count("a")) == (6000, 2)


def test_a_device_that_vanishes_stays_with_its_job() -> None:
    ledger = Ledger([node("a", gpus=4)], {"old": HELD})
    ledger.observe(node("a", gpus=1))
    assert ledger.free_device_count("a") == 0
    ledger.observe(node("a", gpus=4))
    assert ledger.holder_of("GPU-a-1") == "old"
    assert ledger.free_device_count("a") == 2


def test_a_device_that_is_on_another_node_by_now_is_free_there_once_its_job_ends() -> None:
    """Such as on a machine whose name has changed under its jobs."""
    ledger = Ledger(held={"old": HELD})
    before = node("a", gpus=4)
    ledger.observe(replace(before, name="b"))
    need = GroupNeed(1000, 0, 4)
    assert ledger.ranking(need).best(ledger) is None
    assert ledger.tally((need,)).total.gpus_free == 2
    ledger.release("old")
    assert ledger.free_device_count("b") == 4
    assert ledger.ranking(need).best(ledger) == ("b", before.devices)
    assert ledger.tally((need,)).total.gpus_free == 4


def test_a_node_that_forgets_a_device_leaves_it_to_the_one_that_has_it() -> None:
    ledger = Ledger([node("a", gpus=2)])
    ledger.observe(replace(node("a", gpus=2), name="b"))
    ledger.forget("a")
    ledger.take("job", (GroupPlacement("b", 1000, 0, ("GPU-a-0",)),))
    assert ledger.free_device_count("b") == 1
    ledger.forget("b")
    ledger.release("job")
    ledger.observe(node("a", gpus=2))
    assert ledger.free_device_count("a") == 2


def test_nodes_are_in_the_order_of_their_names_however_they_came() -> None:
    ledger = Ledger([node("c"), node("a")])
    ledger.observe(node("b"))
    assert list(ledger.nodes) == ["a", "b", "c"]
