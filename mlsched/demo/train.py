"""The demo's job: learn from a dataset through the feed, and stop and go on at any step.

    python -m mlsched.demo.train --dataset DIR --out DIR

Writes ``model.npz`` and ``metrics.json`` to ``--out``, and a checkpoint (weights and the 40 bytes
of the feed's state) after every epoch and on SIGTERM, after which it exits with 143. Started again,
it goes on from there, and ends with the same bits as if nothing had happened. Tells its progress
and metrics to mlsched when it runs as a job.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from mlsched.api.progress import metrics, progress
from mlsched.demo.models import Floats, Network
from mlsched_pipelines import Dataset, Feed, FeedState, open_dataset

CHECKPOINT_VARIABLE = "MLSCHED_CHECKPOINT_DIR"
CLASSES = 10
STOPPED = 128 + signal.SIGTERM


class Data(Struct, frozen=True):
    """A part of the dataset as arrays, standardised by the training part."""

    features: Floats
    target: Floats


class Task(Struct, frozen=True):
    """What is learned, and how it is judged on rows that were not learned from."""

    name: str
    metric: str
    baseline_name: str
    outputs: int
    lower_is_better: bool


TASKS = {
    "digits": Task("digits", "accuracy", "nearest class mean", CLASSES, False),
    "runtimes": Task(
        "runtimes", "mean |log error| of run time", "median of jobs with as many GPUs", 1, True
    ),
}


class Trainer:
    """The job's state: network, feed position and what was measured."""

    def __init__(self, dataset: Dataset, options: argparse.Namespace) -> None:
        self.task = TASKS[dataset.runs[-1].key.pipeline]
        self.options = options
        train, test = (_arrays(dataset.where(part=part)) for part in ("train", "test"))
        self.center = train.features.mean(0)
        self.scale = train.features.std(0) + 1e-6
        self.baseline = judge_baseline(self.task, train, test)
        self.test = Data((test.features - self.center) / self.scale, test.target)
        columns = ("features", "target")
        self.feed = Feed(
            dataset.where(part="train"),
            options.batch_size,
            seed=options.seed,
            block_rows=64,
            columns=columns,
        )
        self.network = Network(train.features.shape[1], self.task.outputs, options.seed)
        if self.task.outputs == 1:
            self.network.start_at(float(np.median(train.target)))
        self.state = self.feed.start
        self.stopping = False

    @property
    def steps(self) -> int:
        """Batches in all epochs."""
        return self.feed.steps_per_epoch * int(self.options.epochs)

    def train(self) -> bool:
        """Learn to the end, or until the job is told to stop; whether the end was reached."""
        losses: list[float] = []
        for batch in self.feed.batches(self.state, epochs=self.options.epochs):
            found = batch.numpy()
            features = (found["features"] - self.center) / self.scale
            losses.append(self.network.learn(features, found["target"].astype(np.float64)))
            self.state = batch.state
            note = f"epoch {self.state.epoch}, loss {losses[-1]:.3f}"
            progress(self.state.global_step, self.steps, unit="steps", note=note)
            if self.stopping:
                return False
            if self.state.global_step % self.feed.steps_per_epoch == 0:
                self._end_epoch(losses)
                losses = []
        return True

    def _end_epoch(self, losses: list[float]) -> None:
        say(
            f"epoch {self.state.epoch:3d}/{self.options.epochs}  loss {np.mean(losses):.3f}  "
            f"held-out {self.task.metric} {self.judge():.3f}  (baseline {self.baseline:.3f})"
        )
        self.save_checkpoint()
        time.sleep(self.options.pause)

    def judge(self) -> float:
        """The metric on the held-out rows."""
        scores = self.network.scores(self.test.features)
        if self.task.outputs == 1:
            return float(np.abs(scores[:, 0] - self.test.target).mean())
        return float((scores.argmax(1) == self.test.target).mean())

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is kept."""
        folder = os.environ.get(CHECKPOINT_VARIABLE) or self.options.out
        return Path(folder) / "checkpoint.npz"

    def save_checkpoint(self) -> None:
        """Network and feed position in one file, replaced as a whole."""
        state = np.frombuffer(self.state.to_bytes(), dtype=np.uint8)
        save_arrays(self.checkpoint, self.network.to_arrays() | {"feed": state})

    def load_checkpoint(self) -> None:
        """Go on where the last attempt stopped, if there was one over the same data."""
        if not self.checkpoint.exists():
            return
        with np.load(self.checkpoint) as arrays:
            state = FeedState.from_bytes(arrays["feed"].tobytes())
            if (state.order, state.manifest_version) != (
                self.feed.start.order,
                self.feed.start.manifest_version,
            ):
                say("The checkpoint belongs to other data or another batch size: starting afresh.")
                return
            self.state = state
            self.network.from_arrays(arrays)
        say(f"Going on after step {state.global_step} of {self.steps}.")

    def save_results(self, learned: int, wall_s: float) -> dict[str, Any]:
        """The model and the metrics; rates count what this attempt learned."""
        model = Path(self.options.out) / "model.npz"
        average = {f"weight{number}": each for number, each in enumerate(self.network.average)}
        save_arrays(model, average | {"center": self.center, "scale": self.scale})
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {
            "task": self.task.name,
            "rows_per_s": round(learned * self.options.batch_size / wall_s) if learned else 0,
            "rows": self.feed.dataset.rows,
            "steps": self.steps,
            "peak_memory_bytes": peak_kib * (1 if sys.platform == "darwin" else 1024),
            "metric": self.task.metric,
            "held_out": round(self.judge(), 4),
            "baseline": round(self.baseline, 4),
            "baseline_name": self.task.baseline_name,
            "result_file": str(model.absolute()),
        }
        save_text(Path(self.options.out) / "metrics.json", json.dumps(found, indent=1) + "\n")
        metrics(**found)
        return found


def judge_baseline(task: Task, train: Data, test: Data) -> float:
    """The metric of the obvious guess, made from the training rows alone."""
    if task.outputs == 1:
        overall = float(np.median(train.target))
        sizes = np.unique(train.features[:, 0])
        medians = {s: float(np.median(train.target[train.features[:, 0] == s])) for s in sizes}
        guesses = np.array([medians.get(size, overall) for size in test.features[:, 0]])
        return float(np.abs(guesses - test.target).mean())
    means = np.stack([train.features[train.target == digit].mean(0) for digit in range(CLASSES)])
    distances = ((test.features[:, None, :] - means[None]) ** 2).sum(2)
    return float((distances.argmin(1) == test.target).mean())


def _arrays(part: Dataset) -> Data:
    table = part.to_table(["features", "target"])
    flat = table["features"].combine_chunks().flatten().to_numpy()
    features: npt.NDArray[Any] = flat.reshape(part.rows, -1).astype(np.float64)
    return Data(features, table["target"].to_numpy().astype(np.float64))


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an ``.npz`` file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def say(line: str) -> None:
    """One line of the job's log, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m mlsched.demo.train")
    parser.add_argument("--dataset", required=True, help="folder that mlsched.demo.dataset wrote")
    parser.add_argument("--out", required=True, help="folder for model, metrics and checkpoint")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to wait after an epoch")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; 0 at the end, 143 when stopped by SIGTERM with a checkpoint."""
    options = parse(arguments)
    trainer = Trainer(open_dataset(options.dataset), options)
    signal.signal(signal.SIGTERM, lambda *_: setattr(trainer, "stopping", True))
    trainer.load_checkpoint()
    first, start = trainer.state.global_step, time.monotonic()
    finished = trainer.train()
    wall_s = max(time.monotonic() - start, 1e-9)
    if not finished:
        trainer.save_checkpoint()
        say(f"Stopped after step {trainer.state.global_step} of {trainer.steps}; saved.")
        return STOPPED
    found = trainer.save_results(trainer.state.global_step - first, wall_s)
    better = (found["held_out"] < found["baseline"]) == trainer.task.lower_is_better
    say(
        f"Done: held-out {found['metric']} {found['held_out']} "
        f"({'better' if better else 'worse'} than {found['baseline']}, {found['baseline_name']}), "
        f"{found['rows_per_s']} rows/s. Model: {found['result_file']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
