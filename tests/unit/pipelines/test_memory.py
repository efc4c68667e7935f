"""How much a run may take: what is asked for, what workers have, what the machine allows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlsched_pipelines import memory
from mlsched_pipelines.engines import UNBOUNDED_BYTES
from mlsched_pipelines.memory import Budget, default_budget_bytes, find_budget

GIB = 1 << 30


def engine(slots: int, worker_bytes: int | None) -> Any:
    return SimpleNamespace(slots=slots, worker_memory_max_bytes=worker_bytes)


@pytest.mark.parametrize(
    ("worker", "asked", "expected"),
    [
        (None, 4 * GIB, Budget(4 * GIB, 4 * GIB)),
        (2 * GIB, None, Budget(8 * GIB, 2 * GIB)),
        (2 * GIB, 3 * GIB, Budget(3 * GIB, 2 * GIB)),
        (2 * GIB, 1 * GIB, Budget(1 * GIB, 1 * GIB)),
        (UNBOUNDED_BYTES, None, Budget(4 * UNBOUNDED_BYTES, UNBOUNDED_BYTES)),
    ],
)
def test_a_task_may_take_what_its_worker_has_and_the_run_what_is_asked_for(
    worker: int | None, asked: int | None, expected: Budget
) -> None:
    assert find_budget(engine(4, worker), asked) == expected


def test_threads_share_a_part_of_the_machine() -> None:
    budget = find_budget(engine(2, None), None)
    assert budget.run_bytes == budget.task_bytes == default_budget_bytes() > 0


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_every_control_group_above_counts(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "jobs/one"
    name = "memory.max" if version == 2 else "memory.limit_in_bytes"
    root = tmp_path if version == 2 else tmp_path / "memory"
    lines = f"0::/{own}/inner\n" if version == 2 else f"5:memory:/{own}/inner\n"
    (root / own / "inner").mkdir(parents=True)
    (root / own / "inner" / name).write_text("max\n" if version == 2 else str(1 << 62))
    (root / own / name).write_text(f"{GIB}\n")
    read_text = Path.read_text

    def read(path: Path, *args: Any, **kwargs: Any) -> str:
        return lines if str(path) == "/proc/self/cgroup" else read_text(path, *args, **kwargs)

    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(Path, "read_text", read)
    assert default_budget_bytes() == int(memory.BUDGET_SHARE * GIB)
