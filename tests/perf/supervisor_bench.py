"""Measure the supervisor: start of a job, memory, and how fast output is written.

Run: ``python tests/perf/supervisor_bench.py``; prints one JSON object.

- ``first_instruction_ms``: from the spawn of the supervisor to the first instruction of a small C
  program (Python where there is no compiler, less its own start), median of 30.
- ``supervisor_rss_kib``, ``supervisor_pss_kib``: while its job sleeps.
- ``log_mb_per_s``: output of the job, lines of 80 bytes, and lines of 16 KiB.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlsched.adapters.local.attempts import AttemptDirectory
from mlsched.adapters.local.supervisors import spawn_supervisor

RUNS = 30
OUTPUT_BYTES = 400_000_000

CLOCK = """
#include <stdio.h>
#include <time.h>
int main(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%lld\\n", (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    return 0;
}
"""


def make_attempt(jobs_dir: Path, number: int, argv: list[str], **more: Any) -> AttemptDirectory:
    """An attempt that is ready to be supervised."""
    directory = AttemptDirectory(jobs_dir, "bench", number)
    directory.create()
    rank = {"rank": 0, "argv": argv, "env": {"PATH": os.environ["PATH"]}}
    launch = {
        "job_id": "bench",
        "name": "bench",
        "attempt": number,
        "ranks": [rank],
        "workdir": "/",
        "time_limit_s": 0,
        "grace_s": 1,
        "signal": None,
        "memory_bytes": 0,
        "milli_cpus": 0,
        "log_bytes_max": 256 << 20,
        "log_files_max": 4,
        "output": "",
    }
    directory.write_launch(launch | more, "")
    return directory


def supervise(directory: AttemptDirectory, use_groups: bool = False) -> int:
    """Start the supervisor of an attempt; its process id."""
    with open(os.devnull, "wb") as status:  # noqa: PTH123
        return spawn_supervisor(directory.path, status.fileno(), use_groups)


def clock_command(path: Path) -> list[str]:
    """A command that prints the monotonic clock as soon as it can."""
    source = path / "clock.c"
    source.write_text(CLOCK)
    if shutil.which("gcc") is None:
        return [sys.executable, "-I", "-S", "-c", "import time; print(time.monotonic_ns())"]
    subprocess.run(["gcc", "-O2", "-o", str(path / "clock"), str(source)], check=True)
    return [str(path / "clock")]


def measure_start(path: Path, use_groups: bool, **limits: int) -> dict[str, float]:
    """Milliseconds to the first instruction: median and extremes."""
    command = clock_command(path)
    jobs_dir = path / f"start-{use_groups}"
    taken = []
    for number in range(1, RUNS + 1):
        directory = make_attempt(jobs_dir, number, command, **limits)
        began = time.monotonic_ns()
        os.waitpid(supervise(directory, use_groups), 0)
        text = (directory.path / "rank-0.log").read_text().split()[3]
        taken.append((int(text) - began) / 1e6)
    return {"median": statistics.median(taken), "min": min(taken), "max": max(taken)}


def measure_memory(path: Path) -> dict[str, int]:
    """KiB of a supervisor whose job sleeps."""
    directory = make_attempt(path / "memory", 1, ["sleep", "1.5"])
    pid = supervise(directory)
    while not (directory.path / "started.json").exists():
        time.sleep(0.01)
    time.sleep(1)
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, lines[1:])}
    os.waitpid(pid, 0)
    return {"rss": found["Rss"], "pss": found["Pss"]}


def measure_output(path: Path, line: str) -> float:
    """Megabytes of output a second, from the pipe to the log files."""
    text = f"yes {line} | head -c {OUTPUT_BYTES}"
    directory = make_attempt(path / f"output-{len(line)}", 1, ["sh", "-c", text])
    os.waitpid(supervise(directory), 0)
    outcome = directory.read_outcome()
    assert outcome is not None
    assert outcome.exit_code == 0
    return OUTPUT_BYTES / 1000 / outcome.run_ms


def main() -> None:
    """Measure everything and print it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        memory = measure_memory(path)
        result = {
            "first_instruction_ms": measure_start(path, use_groups=False),
            "first_instruction_with_groups_ms": measure_start(
                path, use_groups=True, memory_bytes=1 << 30, milli_cpus=1000
            ),
            "supervisor_rss_kib": memory["rss"],
            "supervisor_pss_kib": memory["pss"],
            "log_mb_per_s": measure_output(path, "x" * 79),
            "log_long_lines_mb_per_s": measure_output(path, "x" * 16_383),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
