"""Samples a second of the feed, beside a plain mmap loop and LitData, in one run.

    python tests/perf/feed_bench.py [--rounds 5] [--litdata PYTHON | --install]

60,000 samples of 8 KiB, batch 64, windows of 8 blocks of 512 samples, page cache warm. One process
a loader; rounds are interleaved (one epoch of each in turn) and the best of the rounds counts,
after one round to warm up. LitData needs torch, so it lives in an environment of its own: name the
Python of one, or let ``--install`` make it in .cache/litdata (about 6 GB). Prints a JSON object a
line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from feed_workers import BATCH, BLOCK_ROWS, SAMPLES, TOKENS, WINDOW, make_tokens

from mlsched_pipelines import Plan, run, table

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".cache" / "litdata"
LITDATA = "litdata==0.2.76"


def write_dataset(folder: Path) -> None:
    """The samples as a dataset of four shards."""
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(make_tokens().reshape(-1)), TOKENS)
    source = table(pa.table({"tokens": tokens}), split_rows=SAMPLES // 4)
    run(Plan.scan(source).write(folder, batch_bytes=BLOCK_ROWS * TOKENS * 4))


def install() -> Path | None:
    """An environment with LitData; None when the package index does not give it."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", LITDATA], check=False)
    return python if done.returncode == 0 else None


class Worker:
    """A loader's process."""

    def __init__(self, name: str, folder: Path, python: str | Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, HERE / "feed_workers.py", name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit(f"The loader {name} ended before it was ready.")

    def epoch(self) -> dict[str, Any]:
        """Figures of one more epoch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(workers: list[Worker], rounds: int) -> dict[str, dict[str, float]]:
    """The best epoch of each loader, and all their rates."""
    found: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    for number in range(rounds + 1):
        for worker in workers:
            epoch = worker.epoch()
            if number:
                found[worker.name].append(epoch)
    return {name: summary(epochs) for name, epochs in found.items()}


def summary(epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Best and worst rate, and the CPU time of the best epoch."""
    best = min(epochs, key=lambda each: each["wall_s"])
    rates = sorted(each["samples"] / each["wall_s"] for each in epochs)
    return {
        "samples_per_s": round(rates[-1]),
        "samples_per_s_worst": round(rates[0]),
        "mb_per_s": round(rates[-1] * TOKENS * 4 / 1e6),
        "samples_per_cpu_s": round(best["samples"] / best["cpu_s"]),
        "first_batch_ms": round(min(each["first_batch_s"] for each in epochs) * 1000, 2),
    }


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--litdata", type=Path, help="a Python that has litdata")
    asked.add_argument("--install", action="store_true", help="make one (about 6 GB)")
    options = asked.parse_args()
    litdata = options.litdata or (install() if options.install else None)
    if litdata is None and (ENVIRONMENT / "bin" / "python").exists():
        litdata = ENVIRONMENT / "bin" / "python"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder)
        write_dataset(root)
        pythons: dict[str, str | Path] = dict.fromkeys(("plain", "direct", "feed"), sys.executable)
        if litdata is not None:
            names = ("litdata-stack", "litdata-loader-0", "litdata-loader-2")
            pythons |= dict.fromkeys(names, litdata)
        workers = [Worker(name, root, python) for name, python in pythons.items()]
        found = measure(workers, options.rounds)
        for worker in workers:
            worker.close()
    for name, figures in found.items():
        print(json.dumps({"loader": name} | figures))
    best_litdata = max(
        (each["samples_per_s"] for name, each in found.items() if "litdata" in name), default=0
    )
    feed = found["feed"]["samples_per_s"]
    ratios = {
        "feed_over_plain": round(feed / found["plain"]["samples_per_s"], 2),
        "feed_over_direct": round(feed / found["direct"]["samples_per_s"], 2),
        "feed_over_litdata": round(feed / best_litdata, 1) if best_litdata else None,
        "batch": BATCH,
        "window_samples": WINDOW * BLOCK_ROWS,
    }
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
