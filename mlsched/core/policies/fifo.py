"""First in, first out, within priorities."""

from __future__ import annotations

from mlsched.model.jobs import Job


class Fifo:
    """Higher priority first; among equals the one that was accepted first."""

    def key(self, job: Job) -> tuple[int, ...]:
        """``(-priority, seq)``: total, since ``seq`` is unique."""
        return (-job.spec.priority, job.seq)
