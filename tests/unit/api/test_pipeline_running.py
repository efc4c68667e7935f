"""A run under a record: real plans on the local engine, and records that cannot be written."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pyarrow as pa
import pytest

from mlsched.api.pipelines.loading import Target
from mlsched.api.pipelines.records import PipelineRuns, RunState
from mlsched.api.pipelines.running import EngineChoice, RecordedRun, begin
from mlsched.errors import ConfigError, PipelineError, StoreFullError, UnreachableError
from mlsched_pipelines import Plan, csv, open_dataset
from mlsched_pipelines.progress import Progress

SCHEMA = pa.schema([("id", pa.int64())])


class BrokenRuns(PipelineRuns):
    """A folder where records in some state cannot be written."""

    refused: tuple[RunState, ...] = ()
    error: BaseException = StoreFullError("cannot record the run: no space.")

    def save(self, run):
        if run.state in self.refused:
            self.refused = tuple(state for state in self.refused if state is not run.state)
            raise self.error
        super().save(run)


@pytest.fixture
def plan(tmp_path) -> Plan:
    (tmp_path / "in.csv").write_text("id\n" + "".join(f"{n}\n" for n in range(500)))
    return Plan.scan(csv(tmp_path / "in.csv", SCHEMA, split_bytes=500)).write(tmp_path / "out")


@pytest.fixture
def make(tmp_path):
    def make_recorded(plan: Plan, engine: str = "local", **more) -> RecordedRun:
        choice, target = EngineChoice(engine), Target(tmp_path / "rides.py", "plan")
        record = begin(plan, target, choice, directory=str(tmp_path), parameters={}, interval="i")
        return RecordedRun(BrokenRuns(tmp_path / "records"), record, **more)

    return make_recorded


def test_the_record_of_a_run_that_succeeded(plan, make, tmp_path):
    seen = []
    recorded = make(plan, on_progress=seen.append)
    assert recorded.record.plan_hash == plan.plan_hash
    done = recorded.execute(plan)
    assert done == recorded._runs.find("out")
    assert done.digest == open_dataset(tmp_path / "out").digest
    assert (done.state, done.version, done.published, done.interval) == ("SUCCEEDED", 1, True, "i")
    assert done.counts["rows_out"] == 500
    assert len(seen) == done.progress["tasks"] == len(plan.splits)
    assert make(plan).execute(plan).published is False


def test_a_run_whose_beginning_cannot_be_recorded_does_not_begin(plan, make, tmp_path):
    recorded = make(plan)
    recorded._runs.refused = (RunState.RUNNING,)
    with pytest.raises(StoreFullError):
        recorded.execute(plan)
    assert not (tmp_path / "out").exists()


def test_a_run_whose_end_cannot_be_recorded_has_succeeded(plan, make, tmp_path):
    told = []
    recorded = make(plan, on_problem=told.append)
    recorded._runs.refused = (RunState.SUCCEEDED,)
    assert recorded.execute(plan).version == 1
    assert told == ["cannot record the run: no space."]


def test_ctrl_c_after_the_commit_stops_nothing(plan, make):
    recorded = make(plan)
    recorded._runs.refused, recorded._runs.error = (RunState.SUCCEEDED,), KeyboardInterrupt()
    assert recorded.execute(plan).state is RunState.SUCCEEDED
    assert recorded._runs.find("out").state is RunState.SUCCEEDED
    recorded.interrupt()
    assert recorded._runs.find("out").state is RunState.SUCCEEDED


def test_ctrl_c_before_it_is_recorded_and_the_next_run_goes_on(plan, make):
    def stop(progress):
        if progress.tasks_done == 2:
            raise KeyboardInterrupt

    recorded = make(plan, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        recorded.execute(plan)
    assert recorded._runs.find("out").state is RunState.INTERRUPTED
    assert make(plan).execute(plan).tasks_resumed >= 2


def test_an_engine_that_does_not_start_is_recorded(plan, make):
    recorded = make(plan, engine="spark")
    with pytest.raises(ConfigError):
        recorded.execute(plan)
    error = recorded._runs.find("out").error
    assert (error.type, error.traceback) == ("ConfigError", "")
    assert error.hint


@pytest.mark.parametrize(
    ("why", "state"),
    [(UnreachableError("Not all members joined."), "FAILED"), (KeyboardInterrupt(), "INTERRUPTED")],
)
def test_a_cluster_that_is_not_there_yet_has_a_run_all_the_same(plan, make, why, state):
    seen = []

    @contextmanager
    def never_whole():
        seen.append(recorded._runs.find("out").state)
        raise why
        yield

    recorded = make(plan, cluster=never_whole())
    with pytest.raises(type(why)):
        recorded.execute(plan)
    assert [*seen, recorded._runs.find("out").state] == ["RUNNING", state]


def test_errors_of_the_system_are_told_as_what_they_are(plan, make, monkeypatch):
    def refuse(*args, **more):
        raise PermissionError(13, "Permission denied", "/data/in.csv")

    monkeypatch.setattr("mlsched.api.pipelines.running.run", refuse)
    recorded = make(plan)
    with pytest.raises(PipelineError, match=r"Permission denied: /data/in\.csv\.$"):
        recorded.execute(plan)
    error = recorded._runs.find("out").error
    assert error.type == "PermissionError"
    assert "Errno" not in error.message
    assert "read and write" in error.hint


def test_a_progress_of_each_task_costs_few_writes(plan, make, monkeypatch):
    recorded = make(plan)
    count = [0]
    fsync = os.fsync

    def counted(handle):
        count[0] += 1
        fsync(handle)

    recorded._runs.create(recorded.record)
    monkeypatch.setattr("mlsched.api.functions.os.fsync", counted)
    for _ in range(1000):
        recorded._progress(Progress("scan", 1, 2, 3, 4, 5, 6, 7, 8.0))
    assert count[0] <= 4
