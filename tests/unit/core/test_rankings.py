"""What a ranking must notice, and what it must not keep."""

from __future__ import annotations

from mlsched.core.filters import AS_IS
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.core.rankings import Ranking
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Node
from mlsched.model.resources import GroupNeed
from mlsched.testing.builders import device, node
from mlsched.units import GIB

ONE_T4 = GroupNeed(1000, 0, 1, gpu_model="T4")


def with_gpu(model: str) -> Node:
    return Node("a", 4000, GIB, (device("GPU-0", model),))


def test_devices_of_another_kind_are_noticed_though_the_counts_are_the_same() -> None:
    ledger = Ledger([with_gpu("H100")])
    assert place((ONE_T4,), ledger) is None
    ledger.observe(with_gpu("T4"))
    assert place((ONE_T4,), ledger) is not None
    ledger.observe(with_gpu("H100"))
    assert place((ONE_T4,), ledger) is None


def test_old_entries_do_not_pile_up() -> None:
    ledger = Ledger([node(f"n{index}", cpus=8) for index in range(20)])
    ranking = Ranking(GroupNeed(1000, 0, 0), AS_IS)
    for index in range(5_000):
        ledger.take(f"j{index}", (GroupPlacement(f"n{index % 20}", 1000 * (index % 7), 0),))
        ranking.best(ledger)
        ledger.release(f"j{index}")
        ranking.best(ledger)
        ledger.commit()
    assert len(ranking._heap) <= 2 * 20 + 65


def test_the_fullest_node_is_taken_and_the_first_by_name_of_two_that_are_alike() -> None:
    ledger = Ledger([node(name, cpus=8) for name in ("c", "b", "a")])
    ranking = ledger.ranking(GroupNeed(1000, 0, 0))
    assert ranking.best(ledger) == ("a", ())
    ledger.take("j", (GroupPlacement("c", 1000, 0),))
    assert ranking.best(ledger) == ("c", ())
    ledger.release("j")
    assert ranking.best(ledger) == ("a", ())
    ledger.forget("a")
    assert ranking.best(ledger) == ("b", ())
