"""What keeps a job that waits for room from being delayed by those that overtake it."""

from __future__ import annotations

from collections.abc import Sequence

from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.model.jobs import GroupPlacement
from mlsched.model.resources import GroupNeed

_WITNESS = "\0witness"


class Guard:
    """Says whether a placement leaves the guarded job room once all that is ahead of it ends.

    One place for the guarded job is kept as a witness: what leaves that alone needs no search.

    Args:
        needs: What the guarded job asks for.
        shadow: A ledger with only what does not end before it starts; `close` leaves it as it was.
    """

    def __init__(self, needs: Sequence[GroupNeed], shadow: Ledger) -> None:
        self._needs = needs
        self._shadow = shadow
        self._before = shadow.savepoint()
        self._has_witness = self._find_witness()

    def allows(self, job_id: str, placements: tuple[GroupPlacement, ...]) -> bool:
        """Whether the job may be put there; if so, what it takes counts against the next ones."""
        if not self._has_witness:
            return False
        if self._shadow.has_room_for(placements):
            self._shadow.take(job_id, placements)
            return True
        savepoint = self._shadow.savepoint()
        self._shadow.release(_WITNESS)
        self._shadow.take(job_id, placements)
        if self._find_witness():
            return True
        self._shadow.rollback(savepoint)
        return False

    def close(self) -> None:
        """Give the shadow back as it was."""
        self._shadow.rollback(self._before)

    def _find_witness(self) -> bool:
        found = place(self._needs, self._shadow)
        if found is not None:
            self._shadow.take(_WITNESS, found)
        return found is not None
