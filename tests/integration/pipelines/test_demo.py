"""The demo's job on real data: it learns, tells its progress, stops at once and goes on exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlsched.demo.dataset import build_dataset, find_trace
from mlsched.errors import SchemaMismatchError
from mlsched_pipelines import open_dataset


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a dataset."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return build_dataset(tmp_path_factory.mktemp("demo")).path


def train(dataset: Path, out: Path, *more: str, **variables: str) -> subprocess.Popen[str]:
    """The training job, in a directory that is not the checkout."""
    out.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "mlsched.demo.train", "--dataset", dataset, "--out", out, *more],
        cwd=out,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(job: subprocess.Popen[str], code: int = 0) -> str:
    """Everything that a job still has to say, once it has ended with a code."""
    output, _ = job.communicate(timeout=60)
    assert job.returncode == code, output
    return output


def test_the_digits_are_built_once(digits: Path) -> None:
    again = build_dataset(digits.parent)
    assert (again.kind, again.is_new, again.rows) == ("digits", False, 1797)
    dataset = open_dataset(digits)
    dataset.verify()
    assert dataset.where(part="test").rows == 359


def test_the_job_learns_and_tells_so(digits: Path, tmp_path: Path) -> None:
    files = {
        "MLSCHED_PROGRESS_FILE": str(tmp_path / "progress.json"),
        "MLSCHED_METRICS_FILE": str(tmp_path / "metrics.json"),
    }
    job = train(digits, tmp_path / "out", "--epochs", "30", **files)
    output = finish(job)
    assert "epoch  30/30" in output
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["held_out"] > max(0.93, told["baseline"])
    assert told["rows_per_s"] > 0
    assert told["peak_memory_bytes"] > 10_000_000
    assert Path(told["result_file"]).is_file()
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["done"], progress["total"], progress["unit"]) == (660, 660, "steps")


def weights(out: Path) -> bytes:
    with np.load(out / "model.npz") as arrays:
        return b"".join(arrays[name].tobytes() for name in sorted(arrays.files))


def test_a_stopped_job_goes_on_and_ends_with_the_same_bits(digits: Path, tmp_path: Path) -> None:
    finish(train(digits, tmp_path / "whole", "--epochs", "8"))
    stopped = tmp_path / "stopped"
    for _ in range(3):
        job = train(digits, stopped, "--epochs", "8", "--pause", "0.2")
        assert job.stdout is not None
        while not job.stdout.readline().startswith("epoch"):
            assert job.poll() is None
        job.send_signal(signal.SIGTERM)
        assert "saved" in finish(job, 143)
    last = train(digits, stopped, "--epochs", "8")
    output = finish(last)
    assert "Going on after step" in output
    assert weights(stopped) == weights(tmp_path / "whole")


def test_a_killed_job_goes_on_from_its_last_epoch(digits: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "kept"
    variables = {"MLSCHED_CHECKPOINT_DIR": str(checkpoints)}
    out = tmp_path / "out"
    job = train(digits, out, "--epochs", "8", "--pause", "5", **variables)
    deadline = time.monotonic() + 60
    while not (checkpoints / "checkpoint.npz").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.kill()
    finish(job, -signal.SIGKILL)
    again = train(digits, out, "--epochs", "8", **variables)
    output = finish(again)
    assert "Going on after step 22 of 176" in output


def test_a_checkpoint_of_other_data_is_not_used(digits: Path, tmp_path: Path) -> None:
    finish(train(digits, tmp_path / "out", "--epochs", "1"))
    other = train(digits, tmp_path / "out", "--epochs", "1", "--batch-size", "32")
    output = finish(other)
    assert "starting afresh" in output


@pytest.mark.needs_shared
def test_run_times_of_the_trace_are_learned_better_than_the_baseline(tmp_path: Path) -> None:
    trace = find_trace()
    if trace is None:
        pytest.skip("the trace is not beside the checkout")
    found = build_dataset(tmp_path, trace)
    assert (found.kind, found.is_new, found.rows) == ("runtimes", True, 3011)
    finish(train(found.path, tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["held_out"] < told["baseline"]


@pytest.mark.needs_shared
def test_no_feature_of_a_job_depends_on_later_jobs(tmp_path: Path) -> None:
    trace = find_trace()
    if trace is None:
        pytest.skip("the trace is not beside the checkout")
    header, *lines = trace.read_text().splitlines()
    lines.sort(key=lambda line: int(line.split(",")[1]))
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    whole.write_text("\n".join([header, *lines]))
    part.write_text("\n".join([header, *lines[:1000]]))
    found = [
        open_dataset(build_dataset(tmp_path / path.stem, path).path).to_table()["features"]
        for path in (whole, part)
    ]
    assert found[0].to_pylist()[:1000] == found[1].to_pylist()


def test_a_trace_with_other_columns_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "trace.csv"
    wrong.write_text("job_id,submit_time,duration,num_gpu\na,1,2,3\n")
    with pytest.raises(SchemaMismatchError, match="submission_time"):
        build_dataset(tmp_path, wrong)
