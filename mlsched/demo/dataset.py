"""The demo's data: real input through a pipeline into a dataset of features and targets.

Two inputs, one layout (`SCHEMA`), so that one training program serves both:

- ``runtimes``: jobs of a production GPU cluster. What is known when a job is submitted becomes its
  features; the target is the logarithm of its run time. The last fifth in time is held out.
- ``digits``: the handwritten digits that scikit-learn ships, where the trace is not at hand. Every
  fifth image is held out.
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from msgspec import Struct

from mlsched_pipelines import Check, Contract, Plan, RunReport, csv, run

Floats = npt.NDArray[np.float64]

RUNTIME_FEATURES = (
    "log2 GPUs",
    "hour, sine",
    "hour, cosine",
    "weekday, sine",
    "weekday, cosine",
    "log s since the last submit",
    "log s of the last 5 ended jobs",
    "log s of the last ended job of this size",
    "log s of the last 5 of this size",
    "log s of the last 20 of this size",
    "log running jobs of this size",
    "log s that these run already",
    "share of this size among the last 10",
)
DIGIT_PIXELS = 64
_NO_HISTORY_LOG_S = 8.0
"""About 50 minutes: the guess for a job when nothing has ended yet."""


def schema_of(features: int) -> pa.Schema:
    """Features as a fixed-size list, the target, and the part that a row belongs to."""
    return pa.schema(
        [
            pa.field("features", pa.list_(pa.float32(), features), nullable=False),
            pa.field("target", pa.float32(), nullable=False),
            pa.field("part", pa.string(), nullable=False),
        ]
    )


def find_trace() -> Path | None:
    """The production trace that may lie beside a checkout."""
    path = Path(__file__).absolute().parents[3] / "shared" / "traces" / "itp" / "cluster03.csv"
    return path if path.is_file() else None


class DemoDataset(Struct, frozen=True):
    """The dataset that was built, and what from."""

    kind: str
    """``runtimes`` or ``digits``."""
    source: str
    path: Path
    version: int
    rows: int
    shards: int
    is_new: bool
    """False when the same run had published it before: then nothing was computed."""


def build_dataset(home: str | Path, trace: str | Path | None = None) -> DemoDataset:
    """Build the demo's dataset in a folder below ``home``; where it is already, that costs nothing.

    Args:
        home: Gets a folder ``runtimes`` or ``digits``.
        trace: CSV with job_id, submission_time [s], duration [s], num_gpu; None takes
            scikit-learn's digits.

    Raises:
        ModuleNotFoundError: there is no trace, and scikit-learn is not installed.
        NotFoundError: there is no such trace.
        SchemaMismatchError: the trace is not as described.
    """
    if trace is not None:
        path = Path(home).absolute() / "runtimes"
        report = run(plan_runtimes(Path(trace), path), pipeline="runtimes")
        return _told(report, str(trace))
    path = Path(home).absolute() / "digits"
    with as_file(files("sklearn.datasets") / "data" / "digits.csv.gz") as packed:
        report = run(plan_digits(packed, path), pipeline="digits")
    return _told(report, "the handwritten digits of scikit-learn")


def _told(report: RunReport, source: str) -> DemoDataset:
    return DemoDataset(
        kind=report.key.pipeline,
        source=source,
        path=Path(report.dataset),
        version=report.version,
        rows=report.counts.rows_out,
        shards=report.files,
        is_new=report.published,
    )


def plan_runtimes(trace: Path, out: str | Path) -> Plan:
    """Jobs in order of submission, with what was known of the cluster at that moment."""
    fields = pa.schema(
        [("submission_time", pa.int64()), ("duration", pa.int64()), ("num_gpu", pa.int32())]
    )
    positive = {"duration": Check(minimum=1), "num_gpu": Check(minimum=1)}
    return (
        Plan.scan(csv(trace, Contract(fields, positive, rows_min=100)))
        .sort(["submission_time", "num_gpu", "duration"])
        .map_batches(describe_jobs, schema=schema_of(len(RUNTIME_FEATURES)))
        .write(out, partition_by="part")
    )


def describe_jobs(batch: pa.RecordBatch) -> dict[str, Any]:
    """Features of jobs from the jobs before them in the batch, never from a job's future."""
    submitted, duration, gpus = (
        batch.column(name).to_numpy().astype(np.float64) for name in batch.schema.names
    )
    rows = [_describe(at, submitted, duration, gpus) for at in range(batch.num_rows)]
    held_out = np.arange(batch.num_rows) >= batch.num_rows * 4 // 5
    return {
        "features": np.array(rows, dtype=np.float32),
        "target": np.log1p(duration).astype(np.float32),
        "part": np.where(held_out, "test", "train"),
    }


def _describe(at: int, submitted: Floats, duration: Floats, gpus: Floats) -> list[float]:
    now, ended = submitted[at], submitted[:at] + duration[:at]
    over = np.flatnonzero(ended <= now)
    over = over[np.argsort(ended[over], kind="stable")]
    same = over[gpus[over] == gpus[at]]
    running = np.flatnonzero((ended > now) & (gpus[:at] == gpus[at]))
    hour, weekday = (2 * np.pi * (now % span) / span for span in (86_400, 604_800))
    recent = gpus[max(0, at - 10) : at] == gpus[at]
    return [
        float(np.log2(gpus[at])),
        *(float(wave(angle)) for angle in (hour, weekday) for wave in (np.sin, np.cos)),
        float(np.log1p(now - submitted[at - 1])) if at else 0.0,
        *(_mean_log(duration[last]) for last in (over[-5:], same[-1:], same[-5:], same[-20:])),
        float(np.log1p(len(running))),
        float(np.log1p(now - submitted[running]).mean()) if len(running) else 0.0,
        float(recent.mean()) if at else 0.0,
    ]


def _mean_log(durations: Floats) -> float:
    return float(np.log1p(durations).mean()) if len(durations) else _NO_HISTORY_LOG_S


def plan_digits(packed: Path, out: str | Path) -> Plan:
    """Images of 8 by 8 pixels, 0..1, and the digit that each shows."""
    source = _unpack(packed, Path(out))
    names = [f"p{number}" for number in range(DIGIT_PIXELS)]
    fields = pa.schema([(name, pa.float32()) for name in (*names, "digit", "number")])
    checks = {name: Check(minimum=0, maximum=16) for name in names}
    checks["digit"] = Check(allowed=tuple(float(digit) for digit in range(10)))
    return (
        Plan.scan(csv(source, Contract(fields, checks)))
        .map_batches(describe_digits, schema=schema_of(DIGIT_PIXELS))
        .write(out, partition_by="part")
    )


def describe_digits(batch: pa.RecordBatch) -> dict[str, Any]:
    """Pixels as one list a row."""
    columns = [column.to_numpy() for column in batch.columns]
    return {
        "features": np.stack(columns[:DIGIT_PIXELS], axis=1) / np.float32(16),
        "target": columns[DIGIT_PIXELS],
        "part": np.where(columns[DIGIT_PIXELS + 1] % 5 == 4, "test", "train"),
    }


def _unpack(packed: Path, out: Path) -> Path:
    """The packaged CSV, which has no header line, as one with names and row numbers."""
    names = [*(f"p{number}" for number in range(DIGIT_PIXELS)), "digit"]
    read = pa.csv.ReadOptions(column_names=names)
    with pa.input_stream(packed, compression="gzip") as stream:
        found = pa.csv.read_csv(stream, read_options=read)
    numbered = found.append_column("number", pa.array(range(found.num_rows)))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "digits.csv"
    if not path.exists():
        unfinished = path.with_suffix(".new")
        pa.csv.write_csv(numbered.cast(_all_float(numbered)), unfinished)
        unfinished.replace(path)
    return path


def _all_float(table: pa.Table) -> pa.Schema:
    return pa.schema([(name, pa.float32()) for name in table.schema.names])


def main() -> int:
    """``python -m mlsched.demo.dataset HOME [TRACE]``."""
    if len(sys.argv) not in (2, 3):
        sys.stderr.write("usage: python -m mlsched.demo.dataset HOME [TRACE.csv]\n")
        return 2
    trace = sys.argv[2] if len(sys.argv) == 3 else find_trace()
    found = build_dataset(sys.argv[1], trace)
    state = "built" if found.is_new else "there already"
    sys.stdout.write(f"{found.path}: version {found.version} {state}, {found.rows} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
