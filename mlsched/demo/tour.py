"""``mlsched demo``: from real data to a trained model, by the commands that users type.

A first job builds an Arrow dataset by a pipeline, a second one trains on it through the feed; the
tour follows it and prints its report. All files are in one directory below the cache directory.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from mlsched.config import Paths
from mlsched.demo.dataset import find_trace

MLSCHED = (sys.executable, "-m", "mlsched")


def main() -> int:
    """Take the tour; the exit code is that of the first job that fails, 0 when all went well."""
    home = Paths.from_environment().cache_dir / "demo"
    home.mkdir(parents=True, exist_ok=True)
    trace = find_trace()
    dataset = home / ("runtimes" if trace else "digits")
    _title("1. Build an Arrow dataset from real data, by a pipeline")
    _say(f"input: {trace or 'the handwritten digits that scikit-learn ships'}")
    build = [sys.executable, "-m", "mlsched.demo.dataset", str(home)]
    code = _mlsched("run", "--name", "demo-data", "--", *build)
    return code or _train(dataset, home)


def _train(dataset: Path, home: Path) -> int:
    out = tempfile.mkdtemp(prefix=f"{dataset.name}-model-", dir=home)
    train = [sys.executable, "-m", "mlsched.demo.train", "--dataset", str(dataset), "--out", out]
    _title("2. Submit a training job that reads the dataset through the feed")
    name = _submit("--name", "demo-train", "--memory", "2G", "--time", "10m", "--retries", "1",
                   "--", *train)  # fmt: skip
    _title("3. Follow it; Ctrl-C would leave it running")
    _mlsched("logs", "-f", name)
    code = _mlsched("wait", name)
    _title("4. What became of it")
    _mlsched("report", name)
    _say(f"\nthe model and its metrics are in {out}")
    _say(f"next: mlsched show {name}; mlsched why {name}; mlsched ls --all; mlsched gpus")
    return code


def _submit(*words: str) -> str:
    """Submit, and return the name of the job."""
    _say(f"$ mlsched submit {shlex.join(words)}")
    command = [*MLSCHED, "submit", "-o", "name", *words]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        sys.exit(found.returncode)
    _say(found.stdout.strip())
    return found.stdout.strip()


def _mlsched(*words: str) -> int:
    """Run one command as a user would, its output in between ours; returns its exit code."""
    _say(f"$ mlsched {shlex.join(words)}")
    return subprocess.run([*MLSCHED, *words], check=False).returncode


def _title(text: str) -> None:
    _say(f"\n== {text}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
