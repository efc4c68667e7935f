"""How far a run is: what `mlsched_pipelines.run` tells while it goes on."""

from __future__ import annotations

from msgspec import Struct


class Progress(Struct, frozen=True):
    """How far a run is, over all of its stages."""

    stage: str
    """What is under way: ``scan``, ``group_by``, ``join`` or ``sort``."""
    tasks_done: int
    tasks: int
    rows_in: int
    """Rows read so far."""
    rows_out: int
    """Rows that the stages so far have staged for what follows them."""
    bytes_done: int
    """Input of the tasks that have ended, those of an earlier try among them."""
    bytes_total: int
    """Input of all tasks; what later stages will read is known once the stage before has ended."""
    bytes_here: int
    """Input of the tasks that ended in this try: what the speed is measured by."""
    wall_s: float

    @property
    def bytes_per_s(self) -> float:
        """Input worked through a second in this try; 0 before the first task has ended."""
        return self.bytes_here / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this speed; None where it cannot be known.

        Of the last hundredth it is not: what a later stage does with little input may take long.
        """
        left_bytes = max(0, self.bytes_total - self.bytes_done)
        is_last = self.tasks_done < self.tasks and left_bytes * 100 < self.bytes_total
        return None if is_last or not self.bytes_per_s else left_bytes / self.bytes_per_s
