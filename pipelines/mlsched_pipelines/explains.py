"""What a run would do: its stages, what is read after pruning, and the memory that a task needs."""

from __future__ import annotations

from msgspec import Struct

from mlsched_pipelines.memory import task_memory_bytes
from mlsched_pipelines.plans import Plan
from mlsched_pipelines.sources import describe_source
from mlsched_pipelines.splits import Pruned
from mlsched_pipelines.stages import Stage, cut_stages
from mlsched_pipelines.steps import JoinPlan


class StageExplanation(Struct, frozen=True):
    """One stage: tasks that run side by side."""

    name: str
    """``scan``, ``group_by``, ``join`` or ``sort``."""
    reads: str
    """Where its rows come from: a source, or stages before it, counted from 1."""
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
    """That are read."""
    splits_pruned: int
    """Splits that no row of can pass the first filter, by the statistics of their file."""
    bytes_total: int
    bytes_to_read: int
    stages: tuple[StageExplanation, ...]


def explain(plan: Plan) -> Explanation:
    """What `mlsched_pipelines.run` would do with a plan; nothing is read for it.

    Raises:
        PipelineError: the plan has no write.
    """
    target = plan.writes()
    stages = cut_stages(plan)
    scans = [stage for stage in stages if stage.source is not None]
    to_read = sum(split.size_bytes for stage in scans for split in stage.splits)
    pruned = _pruned(plan)
    return Explanation(
        plan.plan_hash,
        target.dataset,
        sum(len(stage.splits) for stage in scans),
        pruned.splits,
        to_read + pruned.size_bytes,
        to_read,
        tuple(map(_explain_stage, stages)),
    )


def _pruned(plan: Plan) -> Pruned:
    rights = (_pruned(step.right) for step in plan.steps if isinstance(step, JoinPlan))
    return sum(rights, plan.pruned)


def _explain_stage(stage: Stage) -> StageExplanation:
    head = () if stage.head is None else (str(stage.head),)
    steps = (*head, *map(str, stage.steps))
    if stage.source is None:
        reads = " and ".join(f"stage {number + 1}" for number in stage.inputs)
        return StageExplanation(stage.name, reads, steps, stage.tasks, None, None)
    sizes = [split.size_bytes for split in stage.splits]
    needed = None
    if not stage.broadcasts:
        needed = task_memory_bytes(stage, max(sizes, default=0), 0)
    reads = describe_source(stage.source, stage.splits)
    return StageExplanation(stage.name, reads, steps, stage.tasks, sum(sizes), needed)
