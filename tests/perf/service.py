"""The service as users feel it: submit, first line, ls with 10,000 jobs, start-up of commands.

CPU seconds where start-up matters, wall time elsewhere. Runs in a home of its own.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlsched.api.client import connect
from mlsched.config import Paths

QUEUED = 10_000


def tell(what: str, **figures: Any) -> None:
    """One line of JSON."""
    print(json.dumps({"what": what, **figures}), flush=True)


@contextmanager
def fresh_home() -> Iterator[None]:
    """An installation of its own, whose service is stopped in the end."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ |= {"HOME": directory, "XDG_RUNTIME_DIR": directory}
        for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        yield
        subprocess.run([sys.executable, "-m", "mlsched", "server", "stop"], check=True)


def command(*words: str) -> tuple[float, float]:
    """Wall and CPU seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mlsched", *words], check=True, capture_output=True)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s


def median_command(*words: str, times: int = 7) -> dict[str, float]:
    """Median wall and CPU seconds."""
    found = [command(*words) for _ in range(times)]
    wall_s, cpu_s = (statistics.median(column) for column in zip(*found, strict=True))
    return {"wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3)}


def followed_mb_per_s(line: str, size_mb: int = 300) -> float:
    """Megabytes of output a second that ``mlsched run`` shows of a job that writes at full speed.

    Raises:
        RuntimeError: something of the output was not shown.
    """
    text = f"yes '{line}' | head -c {size_mb}000000"
    shown = subprocess.Popen(
        [sys.executable, "-m", "mlsched", "run", "--", "sh", "-c", text], stdout=subprocess.PIPE
    )
    size, start = 0, time.perf_counter()
    while shown.stdout is not None and (data := shown.stdout.read(1 << 20)):
        size += len(data)
    if shown.wait() or size != size_mb * 1_000_000:
        raise RuntimeError(f"{size} bytes were shown")
    return round(size_mb / (time.perf_counter() - start), 1)


def submit_ms(count: int, **spec: Any) -> list[float]:
    """Milliseconds of each of a number of submits, one after the other."""
    client = connect(Paths.from_environment())
    document = {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "spec": {"command": ["true"], **spec},
    }
    times = []
    for _ in range(count):
        start = time.perf_counter()
        client.call("submit", document=document, environment=dict(os.environ), workdir="/")
        times.append((time.perf_counter() - start) * 1000)
    return times


def percentiles(times: list[float]) -> dict[str, float]:
    """p50, p99 and the worst, rounded."""
    ordered = sorted(times)
    return {
        "p50_ms": round(ordered[len(ordered) // 2], 2),
        "p99_ms": round(ordered[len(ordered) * 99 // 100], 2),
        "max_ms": round(ordered[-1], 2),
    }


def main() -> None:
    """All figures."""
    with fresh_home():
        tell(
            "submit to the job's first line, cold", wall_s=round(command("run", "--", "true")[0], 3)
        )
        tell("submit to the job's first line, warm", **median_command("run", "--", "true"))
        tell("mlsched --help", **median_command("--help"))
        tell("mlsched version", **median_command("version"))
        tell("mlsched ls, no jobs", **median_command("ls"))
        tell("run shows output, lines of 80 bytes", mb_per_s=followed_mb_per_s("x" * 79))
        tell("run shows output, lines of 2 bytes", mb_per_s=followed_mb_per_s("y", 20))
        cpus = os.cpu_count() or 1
        blocker = ("submit", "--cpus", str(cpus), "--", "sleep", "600")
        command(*blocker)
        times = submit_ms(QUEUED, cpusPerTask=cpus)
        tell(f"submit, {QUEUED} queued one after the other", **percentiles(times))
        tell("submit, the last 1,000 of them", **percentiles(times[-1000:]))
        tell(f"mlsched ls, {QUEUED} queued", **median_command("ls"))
        tell(f"mlsched ls -o json, {QUEUED} queued", **median_command("ls", "-o", "json"))
        start = time.perf_counter()
        client = connect(Paths.from_environment())
        names = [job["name"] for job in client.call("list")["jobs"]]
        client.call("cancel", jobs=names, grace_s=0)
        tell(f"cancel {len(names)} jobs", wall_s=round(time.perf_counter() - start, 3))


if __name__ == "__main__":
    main()
