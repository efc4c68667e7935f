"""Jobs whose record is gone while they still hold something, and who comes after each of them."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.events import JobRestored, JobSubmitted

Arrival = JobSubmitted | JobRestored


class Successors:
    """By the id of each withdrawn job: the job of the same id that waits for its end, if any."""

    def __init__(self) -> None:
        self._next: dict[str, Arrival | None] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._next

    def expects(self, job_id: str) -> bool:
        """Whether somebody comes after a job."""
        return self._next.get(job_id) is not None

    def put(self, job_id: str, successor: Arrival | None) -> Arrival | None:
        """Note that a job is withdrawn, and who comes after it; returns who gives way."""
        before = self._next.get(job_id)
        self._next[job_id] = successor
        return before

    def cancel(self, job_id: str) -> bool:
        """Let who comes after a job end when its turn comes; whether there is somebody."""
        successor = self._next.get(job_id)
        if successor is None:
            return False
        wanted = replace(successor.job, cancel_requested=True)
        self._next[job_id] = replace(successor, job=wanted)
        return True

    def pop(self, job_id: str) -> Arrival | None:
        """A job has ended: who comes after it."""
        return self._next.pop(job_id, None)
