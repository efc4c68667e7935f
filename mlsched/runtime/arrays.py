"""Arrays as the controller keeps them: how many elements are open, and how the ended ones ended."""

from __future__ import annotations

from mlsched.model.jobs import Job, JobState

_WORST = {JobState.SUCCEEDED: 0, JobState.CANCELLED: 1, JobState.FAILED: 2}


class Arrays:
    """Progress of every array with open elements."""

    def __init__(self) -> None:
        self._open: dict[str, set[str]] = {}
        self._placed: dict[str, set[str]] = {}
        self._worst: dict[str, JobState] = {}

    def track(self, job: Job) -> JobState | None:
        """Note an element's state.

        Returns:
            The state of the whole array once its last element has ended: the worst of all.
        """
        if job.array is None:
            return None
        array_id = job.array.array_id
        is_open = self._open.setdefault(array_id, set())
        placed = self._placed.setdefault(array_id, set())
        placed.discard(job.id)
        if job.state.is_placed:
            placed.add(job.id)
        if not job.state.is_ended:
            is_open.add(job.id)
            return None
        is_open.discard(job.id)
        self.note_ended(array_id, job.state)
        return self._forget(array_id) if not is_open else None

    def note_ended(self, array_id: str, state: JobState) -> None:
        """Count an element that ended before the controller started."""
        before = self._worst.get(array_id, JobState.SUCCEEDED)
        self._worst[array_id] = max(before, state, key=lambda s: _WORST[s])

    def _forget(self, array_id: str) -> JobState:
        del self._open[array_id]
        self._placed.pop(array_id, None)
        return self._worst.pop(array_id)

    def is_open(self, array_id: str) -> bool:
        """Whether some element has not ended."""
        return array_id in self._open

    def running(self) -> dict[str, int]:
        """How many elements of each array hold something."""
        return {array_id: len(placed) for array_id, placed in self._placed.items() if placed}
