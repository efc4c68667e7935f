"""The laws that production checks on what a step changed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mlsched.core.invariants import check_changed
from mlsched.core.ledger import Ledger
from mlsched.errors import InvariantError
from mlsched.model.jobs import GroupPlacement, Job, JobState
from mlsched.model.resources import GroupNeed
from mlsched.testing.builders import job, node

HELD = (GroupPlacement("a", 1000, 0, ("GPU-a-0",)),)
RUNNING = replace(job("j", 1, gpus=1), state=JobState.RUNNING, placements=HELD)


def check(changed: list[Job], held: dict[str, tuple[GroupPlacement, ...]]) -> None:
    placed = sum(one.state.is_placed for one in changed)
    check_changed(changed, placed, Ledger([node("a", gpus=2)], held))


def test_what_the_ledger_has_passes() -> None:
    check([RUNNING, job("k", 2)], {"j": HELD})


@pytest.mark.parametrize(
    ("changed", "held", "law"),
    [
        ([RUNNING], {}, "ledger is derived"),
        ([RUNNING], {"j": HELD, "k": ()}, "ledger is derived"),
        ([job("j", 1)], {"j": HELD}, "ledger is derived"),
        ([replace(RUNNING, placements=())], {}, "gang whole or absent"),
        (
            [replace(RUNNING, needs=(GroupNeed(1000, 0, 1),) * 2)],
            {"j": HELD},
            "gang whole or absent",
        ),
        ([replace(job("j", 1), placements=HELD)], {}, "gang whole or absent"),
    ],
)
def test_what_it_does_not_have_is_found(
    changed: list[Job], held: dict[str, tuple[GroupPlacement, ...]], law: str
) -> None:
    with pytest.raises(InvariantError, match=law):
        check(changed, held)
