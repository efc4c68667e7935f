"""Jobs that wait before their next try, and when the first of them is due."""

from __future__ import annotations

import heapq
from collections.abc import Mapping


class Backoffs:
    """Monotonic instants before which jobs must not be tried again."""

    def __init__(self) -> None:
        self._until_ms: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    @property
    def until_ms(self) -> Mapping[str, int]:
        """The instants by the ids of the jobs."""
        return self._until_ms

    def set(self, job_id: str, until_ms: int) -> None:
        """Let a job wait."""
        self._until_ms[job_id] = until_ms
        heapq.heappush(self._heap, (until_ms, job_id))

    def discard(self, job_id: str) -> None:
        """Forget a job, if it is there."""
        self._until_ms.pop(job_id, None)

    def next_ms(self) -> int | None:
        """When the first job is due; None when none waits."""
        while self._heap and self._until_ms.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_over(self, now_ms: int) -> list[str]:
        """Take out the jobs whose wait is over."""
        over: list[str] = []
        while (due_ms := self.next_ms()) is not None and due_ms <= now_ms:
            _, job_id = heapq.heappop(self._heap)
            del self._until_ms[job_id]
            over.append(job_id)
        return over
