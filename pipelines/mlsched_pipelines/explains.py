"""What a run would do: its stages, what is read after pruning, and the memory that a task needs."""

from __future__ import annotations

from msgspec import Struct


class StageExplanation(Struct, frozen=True):
    """One stage: tasks that run side by side."""

    name: str
    """``scan``, ``group_by``, ``join`` or ``sort``."""
    reads: str
    """Where its rows come from: a source, or the stages before it by number."""
    steps: tuple[str, ...]
    """What is done with them, one short line each."""
    tasks: int
    bytes_to_read: int | None
    """None where that depends on what the stage before makes of the input."""
    memory_bytes: int | None
    """Estimate of the largest task; None where the input is not known."""


class Explanation(Struct, frozen=True):
    """A plan as `mlsched_pipelines.run` would carry it out."""

    plan_hash: str
    dataset: str
    splits: int
    splits_pruned: int
    """Splits that no row of can pass the first filter, by the statistics of their file."""
    bytes_total: int
    bytes_to_read: int
    stages: tuple[StageExplanation, ...]
