"""How much memory tasks need, by the size of what they read, and how much a run may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched.units import format_bytes
from mlsched_pipelines.engines import Engine
from mlsched_pipelines.stages import Stage

MEMORY_FACTORS = {"scan": 3, "sort": 3, "join": 4, "group_by": 6}
"""What the tasks of a stage take, in multiples of the rows that they read: the rows, what is made
of them, and hash tables. Measured over eight million rows, see docs/performance.md."""

SIDE_MEMORY_FACTOR = 8
"""The same for the other side of a broadcast join, of which mostly keys are hashed."""

BUDGET_SHARE = 0.6
"""Of the machine's memory, or of the limit of its cgroup, where nobody names a budget."""

CGROUPS = Path("/sys/fs/cgroup")


def task_memory_bytes(stage: Stage, input_bytes: int, sides_bytes: int) -> int:
    """An estimate of what one task takes: so many times its input, and the sides of its joins."""
    return MEMORY_FACTORS[stage.name] * input_bytes + SIDE_MEMORY_FACTOR * sides_bytes


class Budget(Struct, frozen=True):
    """Memory that tasks may take, by estimate."""

    run_bytes: int
    """All that run side by side."""
    task_bytes: int
    """One of them: no more than its worker has."""


def find_budget(engine: Engine, memory_max_bytes: int | None) -> Budget:
    """The budget of a run: what is asked for, what the workers have, or a share of this machine."""
    worker = engine.worker_memory_max_bytes
    run = memory_max_bytes or (worker * engine.slots if worker else default_budget_bytes())
    return Budget(run, min(run, worker or run))


def check_task_fits(stage: Stage, what: str, needed_bytes: int, budget_bytes: int) -> None:
    """One task fits its worker, and the budget of the whole run.

    Raises:
        PipelineError: it does not; the message has the numbers.
    """
    if needed_bytes <= budget_bytes:
        return
    hint = (
        "Give more memory, or cut the input smaller: split_bytes=... (or split_rows=...) of the "
        "source."
        if stage.source is not None
        else f"Give more memory, or more tasks: {stage.name}(partitions=...)."
    )
    raise PipelineError(
        f"{stage.name}: the task of {what} needs about {format_bytes(needed_bytes)} of memory, "
        f"a task may take {format_bytes(budget_bytes)}.",
        hint,
    )


def default_budget_bytes() -> int:
    """The memory that a run on this machine may take where nobody says."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(BUDGET_SHARE * min([total, *_cgroup_limits()]))


def _cgroup_limits() -> Iterator[int]:
    """The limits of this process's control group and of all above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if (limit := _read_limit(folder / name)) is not None:
                yield limit
            if folder == root:
                break


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
