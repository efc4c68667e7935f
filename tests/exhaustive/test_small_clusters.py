"""Every small cluster against every small gang, compared with plain enumeration."""

from __future__ import annotations

import itertools

import pytest

from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.model.nodes import Node
from mlsched.model.resources import GroupNeed
from mlsched.testing.builders import device
from mlsched.units import GIB

SHAPES = [*itertools.product(range(3), (1, 2, 4))]
"""GPUs and CPUs of a node."""

CLUSTERS = [
    nodes for count in (1, 2, 3) for nodes in itertools.combinations_with_replacement(SHAPES, count)
]
NEEDS = [*itertools.product(range(3), (1, 2, 3))]


def cluster(shapes: tuple[tuple[int, int], ...]) -> list[Node]:
    return [
        Node(f"n{i}", cpus * 1000, GIB, tuple(device(f"G-{i}-{g}") for g in range(gpus)))
        for i, (gpus, cpus) in enumerate(shapes)
    ]


def groups_that_fit(shapes: tuple[tuple[int, int], ...], gpus: int, cpus: int) -> int:
    """Equal groups fill each node on its own, so the total is a sum."""
    return sum(
        min(have_cpus // cpus, have // gpus if gpus else have_cpus) for have, have_cpus in shapes
    )


@pytest.mark.parametrize("shapes", CLUSTERS, ids=str)
def test_a_gang_is_placed_exactly_when_it_fits_and_never_on_what_is_not_there(
    shapes: tuple[tuple[int, int], ...],
) -> None:
    ledger = Ledger(cluster(shapes))
    for gpus, cpus in NEEDS:
        most = groups_that_fit(shapes, gpus, cpus)
        for groups in (1, 2, 3, 4):
            placed = place((GroupNeed(cpus * 1000, 0, gpus),) * groups, ledger)
            assert (placed is not None) == (groups <= most), (gpus, cpus, groups)
            if placed is not None:
                assert len(placed) == groups
                ledger.take("check", placed)
                assert all(ledger.free_milli_cpus(name) >= 0 for name in ledger.nodes)
                ledger.release("check")
