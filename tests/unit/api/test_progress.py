"""Progress and metrics: written whole, not too often, and never outside of a job."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlsched.api import progress as module


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_written_at", -1.0)
    monkeypatch.setattr(module, "_metrics", {})
    monkeypatch.setenv("MLSCHED_PROGRESS_FILE", str(tmp_path / "progress.json"))
    monkeypatch.setenv("MLSCHED_METRICS_FILE", str(tmp_path / "metrics.json"))


def test_progress_is_written_as_the_service_reads_it(tmp_path):
    assert module.progress(3, 10, unit="steps", note="loss 0.5")
    told = json.loads((tmp_path / "progress.json").read_text())
    assert told == {"done": 3, "total": 10, "unit": "steps", "note": "loss 0.5"}
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_loop_may_report_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    written = [module.progress(step, 1000) for step in range(1001)]
    assert sum(written) == 2
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 1000


def test_metrics_add_up(tmp_path):
    module.metrics(loss=np.float32(0.5), epoch=1)
    module.metrics(epoch=np.int64(2))
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"loss": 0.5, "epoch": 2}


def test_metrics_that_json_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="neither a number nor text"):
        module.metrics(model=object())


def test_outside_of_a_job_nothing_happens(monkeypatch):
    monkeypatch.delenv("MLSCHED_PROGRESS_FILE")
    monkeypatch.delenv("MLSCHED_METRICS_FILE")
    assert not module.progress(1, 1)
    assert not module.metrics(a=1)


def test_a_full_disk_does_not_end_the_job(monkeypatch, tmp_path):
    monkeypatch.setenv("MLSCHED_PROGRESS_FILE", str(tmp_path / "gone" / "progress.json"))
    assert not module.progress(1, 1)
