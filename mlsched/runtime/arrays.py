"""Arrays as the controller keeps them: how many elements are open, and how the ended ones ended."""

from __future__ import annotations

from collections.abc import Mapping

from mlsched.model.jobs import Job, JobState

_WORST = {JobState.SUCCEEDED: 0, JobState.CANCELLED: 1, JobState.FAILED: 2}


class _Array:
    """Ids of elements, and the worst end of those that ended."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.leaving: set[str] = set()
        """Withdrawn ones that hold something still; an array of the same id may have come since."""
        self.placed: set[str] = set()
        self.worst = JobState.SUCCEEDED

    def count(self, state: JobState) -> None:
        self.worst = max(self.worst, state, key=lambda s: _WORST[s])


class Arrays:
    """Progress of every array with open elements."""

    def __init__(self) -> None:
        self._arrays: dict[str, _Array] = {}

    def learn(self, job: Job, ended: Mapping[str, JobState]) -> None:
        """Note an element that has come, and how others of its array ended before it did."""
        if job.array is None:
            self._arrays.pop(job.id, None)  # its name was that of an array which is withdrawn
            return
        array_id = job.array.array_id
        array = self._arrays.setdefault(array_id, _Array())
        if array.leaving and not array.open:
            array.worst = JobState.SUCCEEDED
        array.open.add(job.id)
        if array_id in ended:
            array.count(ended[array_id])

    def withdraw(self, job: Job) -> None:
        """Note that an element is none any more, though it has not ended."""
        array = self._find(job)
        if array is not None:
            array.open.discard(job.id)
            array.leaving.add(job.id)

    def discard(self, job: Job) -> None:
        """Forget an element that had come, and was never let in."""
        array = self._find(job)
        if array is not None:
            array.open.discard(job.id)

    def track(self, job: Job) -> JobState | None:
        """Note an element's state.

        Returns:
            The state of the whole array once its last element has ended: the worst of all.
        """
        array = self._find(job)
        if array is None or job.array is None:
            return None
        array.placed.discard(job.id)
        if job.state.is_placed:
            array.placed.add(job.id)
        if not job.state.is_ended:
            return None
        if job.id not in array.leaving:
            array.open.discard(job.id)
            array.count(job.state)
        elif not array.open:
            array.count(job.state)
        array.leaving.discard(job.id)
        if array.open or array.leaving:
            return None
        return self._arrays.pop(job.array.array_id).worst

    def _find(self, job: Job) -> _Array | None:
        return None if job.array is None else self._arrays.get(job.array.array_id)

    def is_open(self, array_id: str) -> bool:
        """Whether some element has not ended."""
        return array_id in self._arrays

    def running(self) -> dict[str, int]:
        """How many elements of each array hold something."""
        found = self._arrays.items()
        return {array_id: len(array.placed) for array_id, array in found if array.placed}
