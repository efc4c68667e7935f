"""Progress and metrics: written whole, not too often, and never outside of a job."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlsched.api import progress as module
from mlsched.server.details import read_job_file


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


def test_a_value_that_cannot_be_kept_spoils_no_later_one(tmp_path):
    with pytest.raises(TypeError):
        module.metrics(model=object())
    assert module.metrics(loss=0.5)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"loss": 0.5}


@pytest.mark.parametrize("nan", [float("nan"), np.float32("nan"), np.float64("nan")])
def test_numbers_that_json_has_not_are_written_as_text(tmp_path, nan):
    """The service drops a file that is no JSON, with all that was told before."""
    assert module.metrics(loss=nan, best=-np.inf, history=[1.0, nan], more={"a": (nan,)})
    assert module.progress(nan, float("inf"), note="diverged")
    found = read_job_file(tmp_path, "metrics.json")
    assert found == {"loss": "nan", "best": "-inf", "history": [1.0, "nan"], "more": {"a": ["nan"]}}
    assert read_job_file(tmp_path, "progress.json")["done"] == "nan"


def test_an_array_is_kept_as_a_list(tmp_path):
    assert module.metrics(losses=np.array([1.5, np.nan]))
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"losses": [1.5, "nan"]}


def test_text_that_is_no_text_everywhere_is_spelt_out(tmp_path):
    assert module.progress(1, 1, note="reading \udcff")
    assert read_job_file(tmp_path, "progress.json")["note"] == "reading \\udcff"
