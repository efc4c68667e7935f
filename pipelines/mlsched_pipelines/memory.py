"""How much memory tasks need, by the size of what they read, and how much a run may take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mlsched.errors import PipelineError
from mlsched.units import format_bytes
from mlsched_pipelines.exchanges import part_bytes
from mlsched_pipelines.manifests import TaskRecord
from mlsched_pipelines.stages import Stage

MEMORY_FACTORS = {"scan": 3, "sort": 3, "join": 4, "group_by": 6}
"""What the tasks of a stage take, in multiples of the rows that they read: the rows themselves, what
is made of them, and hash tables. Measured over eight million rows, see docs/performance.md."""

SIDE_MEMORY_FACTOR = 8
"""The same for the other side of a broadcast join, of which mostly keys are hashed."""

BUDGET_SHARE = 0.6
"""Of the machine's memory, or of the limit of its cgroup, where nobody names a budget."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def task_memory_bytes(
    stage: Stage,
    number: int,
    inputs: Sequence[Sequence[TaskRecord]],
    sides: Sequence[Sequence[TaskRecord]],
) -> int:
    """An estimate of what one task takes: so many times its input, and the sides of its joins."""
    factor = MEMORY_FACTORS[stage.name]
    size = (
        stage.splits[number].size_bytes
        if stage.source is not None
        else sum(part_bytes(records, number) for records in inputs)
    )
    return factor * size + SIDE_MEMORY_FACTOR * sum(part_bytes(records, 0) for records in sides)


def check_task_fits(stage: Stage, what: str, needed_bytes: int, budget_bytes: int) -> None:
    """One task fits the budget of the whole run.

    Raises:
        PipelineError: it does not; the message has the numbers.
    """
    if needed_bytes <= budget_bytes:
        return
    hint = (
        "Give more memory, or cut the input smaller: split_bytes=... of the source."
        if stage.source is not None
        else f"Give more memory, or more tasks: {stage.name}(partitions=...)."
    )
    if stage.name == "sort":
        hint = "Give more memory, or project and filter before the sort."
    raise PipelineError(
        f"{stage.name}: the task of {what} needs about {format_bytes(needed_bytes)} of memory, "
        f"the run may take {format_bytes(budget_bytes)}.",
        hint,
    )


def default_budget_bytes() -> int:
    """The memory that a run on this machine may take where nobody says."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for path in _CGROUP_LIMITS if (limit := _read_limit(path)) is not None]
    return int(BUDGET_SHARE * min([total, *limits]))


def _read_limit(path: str) -> int | None:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
