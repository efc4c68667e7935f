"""First in, first out, within priorities."""

from __future__ import annotations

from mlsched.model.jobs import Job


class Fifo:
    """Higher priority first; among equals the one that was accepted first."""

    def key(self, job: Job) -> tuple[int, ...]:
        """``(-priority, seq, index)``: total, since only elements of an array share a ``seq``."""
        return (-job.spec.priority, job.seq, job.array.index if job.array else 0)
