"""Orders of the queue, one file a policy. A policy gives keys; placement is not its business."""

from __future__ import annotations

from typing import Protocol

from mlsched.model.jobs import Job


class Policy(Protocol):
    """An order of pending jobs."""

    def key(self, job: Job) -> tuple[int, ...]:
        """Integers; the smallest goes first. Must be total: no two jobs share a key."""
        ...
