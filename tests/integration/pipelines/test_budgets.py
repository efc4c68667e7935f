"""A memory budget: an input of three times as much, of a join six times, runs through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BUDGET_BYTES = 110 << 20
OVERHEAD_BYTES = 96 << 20
"""What is no task's: libraries that a first task loads, and memory that Arrow's pool keeps."""
ROWS, FILES = 12_000_000, 12

PROGRAM = """
import json, sys, threading
import pyarrow.compute as pc
from mlsched_pipelines import LocalEngine, Plan, parquet, run

folder, work, budget = sys.argv[1], sys.argv[2], int(sys.argv[3])

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(l.split()[1]) for l in file if l.startswith("RssAnon")) << 10

peak, over = [0], threading.Event()

def watch():
    while not over.wait(0.005):
        peak[0] = max(peak[0], anonymous())

scan = Plan.scan(parquet(f"{folder}/in/*.parquet", fingerprint="stat", split_bytes=6 << 20))
kept = scan.filter(pc.field("a") > 0.1)
plan = {
    "filter": lambda: kept,
    "group_by": lambda: kept.group_by("id", {"b": ("b", "sum")}, partitions=32),
    "sort": lambda: kept.sort([("b", "descending"), "key"], partitions=32),
    "join": lambda: kept.join(scan.project(["id", "key"]), on="id", suffix="_r", partitions=32),
}[work]().write(f"{folder}/{work}")
before = anonymous()
thread = threading.Thread(target=watch, daemon=True)
thread.start()
with LocalEngine(2) as engine:
    report = run(plan, engine=engine, memory_max_bytes=budget)
over.set()
thread.join()
print(json.dumps([plan.input_bytes, peak[0] - before, report.counts.rows_out]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files, 336 MB in memory."""
    path = tmp_path_factory.mktemp("budget")
    (path / "in").mkdir()
    rng, size = np.random.default_rng(0), ROWS // FILES
    for number in range(FILES):
        data = pa.table(
            {
                "id": np.arange(number * size, (number + 1) * size),
                "key": rng.integers(0, 1000, size).astype("i4"),
                "a": rng.random(size),
                "b": rng.random(size),
            }
        )
        pq.write_table(data, path / "in" / f"{number}.parquet", row_group_size=125_000)
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("work", ["filter", "group_by", "sort", "join"])
def test_an_input_of_three_times_the_budget_runs_through_within_it(folder: Path, work: str) -> None:
    words = [str(folder), work, str(BUDGET_BYTES)]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    input_bytes, peak_bytes, rows = json.loads(found.stdout)
    print(f"{work}: {peak_bytes >> 20} MiB over {input_bytes >> 20} MiB")
    assert input_bytes >= 2.8 * BUDGET_BYTES
    assert ROWS * 0.89 < rows < ROWS * 0.91
    assert peak_bytes < BUDGET_BYTES + OVERHEAD_BYTES
