"""Runs and plans of pipelines as text, the progress of a run, and what stops one."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlsched.api.pipelines.interrupts import Interrupts
from mlsched.api.pipelines.records import PipelineRun, RunError, RunProcess, RunState
from mlsched.cli import pipeline_progress
from mlsched.cli.pipeline_progress import Bar, Lines, Meter, make_meter
from mlsched.cli.pipeline_retry import command_of
from mlsched.cli.render.pipelines import (
    counts_text,
    plan_text,
    progress_text,
    run_text,
    runs_table,
    summary_text,
)
from mlsched.cli.session import Session
from mlsched_pipelines.explains import Explanation, StageExplanation
from mlsched_pipelines.progress import Progress

NOW = datetime(2026, 11, 26, 10, 16, tzinfo=UTC)
TOLD = {
    "stage": "scan", "tasks_done": 3, "tasks": 12, "bytes_done": 45, "bytes_total": 100,
    "bytes_per_s": 2 << 20, "eta_s": 12.4,
}  # fmt: skip


def make_run(**more: object) -> PipelineRun:
    fields = {
        "id": "20261126-101500000-abcdef", "pipeline": "paces", "file": "/a/rides.py",
        "name": "daily", "directory": "/a", "dataset": "/a/paces",
        "started_at": "2026-11-26T10:15:00.000Z", **more,
    }  # fmt: skip
    return PipelineRun(**fields)


def succeeded(**more: object) -> PipelineRun:
    fields = {
        "state": RunState.SUCCEEDED, "ended_at": "2026-11-26T10:15:04.000Z", "version": 3,
        "published": True, "files": 2, "tasks_resumed": 0, "digest": "d" * 32,
        "counts": {"rows_in": 2000, "rows_out": 1880, "filtered": 119, "rejected": 1, "made": 0},
        **more,
    }  # fmt: skip
    return make_run(**fields)


def make_progress(**more: object) -> Progress:
    fields = {
        "stage": "scan", "tasks_done": 3, "tasks": 12, "rows_in": 1_200_000, "rows_out": 10,
        "bytes_done": 25, "bytes_total": 100, "bytes_here": 25, "wall_s": 5.0, **more,
    }  # fmt: skip
    return Progress(**fields)


def test_a_row_shows_what_matters_in_each_state():
    failed = RunError("ValueError", "The task of in.csv failed:\n\x1b[2Jbad")
    runs = [
        make_run(progress=TOLD),
        make_run(progress=TOLD, state=RunState.INTERRUPTED),
        succeeded(),
        succeeded(published=False),
        make_run(error=failed, state=RunState.FAILED),
    ]
    lines = runs_table(runs, NOW, {runs[0].id: "20261126-101500"}).splitlines()
    assert [line.rpartition("  ")[2].strip() for line in lines] == [
        "NOTE",
        "45%: scan 3/12 tasks, 2 MiB/s, 12s to go",
        "45%: scan 3/12 tasks",
        "version 3",
        "was version 3",
        "The task of in.csv failed: \\x1b[2Jbad",
    ]
    assert lines[3].split() == [
        "20261126-101500", "paces", "-", "SUCCEEDED", "1,880", "1m00s", "4.0s", "version", "3",
    ]  # fmt: skip
    assert runs_table([], NOW, {}) == ""


def test_a_table_fits_the_screen():
    run = make_run(error=RunError("E", "x" * 200), state=RunState.FAILED)
    for wide in (False, True):
        table = runs_table([run], NOW, {}, wide=wide, width=110 if not wide else 200)
        assert all(len(line) <= 200 for line in table.splitlines())


def test_progress_that_another_version_wrote_is_no_error():
    for progress in ({}, {"tasks_done": "x"}, {"tasks_done": 1, "tasks": 2, "bytes_total": "many"}):
        table = runs_table([make_run(progress=progress)], NOW, {})
        assert "RUNNING" in table


def test_counts_leave_out_what_is_zero():
    counts = {"rows_in": 0, "rows_out": 0, "filtered": 0, "combined": 7, "later": 1}
    assert counts_text(counts) == "0 in, 0 out, 7 combined, 1 later"
    assert counts_text(None) == ""


def test_the_summary_of_a_run():
    run = succeeded(workers=2, tasks_resumed=5, memory_max_bytes=4 << 30)
    assert summary_text(run).splitlines() == [
        "Run:     20261126-101500000-abcdef, succeeded",
        "Dataset: /a/paces, version 3",
        "Rows:    2,000 in, 1,880 out, 119 filtered, 1 rejected",
        "Files:   2; 5 tasks of an earlier try taken over",
        "Took:    4.0s on local, 2 workers, 4 GiB",
    ]
    again = summary_text(succeeded(published=False))
    assert "nothing to do: is published already, as version 3" in again


def test_everything_of_a_failed_run():
    error = RunError("ValueError", "bad", "again\nand again", "Traceback\n  in f\x1b[2J")
    process = RunProcess("host", 12, 3, "boot")
    run = make_run(
        state=RunState.FAILED, error=error, parameters={"a": "1", "b": "x y"}, process=process
    )
    text = run_text(run, NOW)
    assert "Parameters: a=1, b=x y" in text
    assert "Hint:       again and again" in text
    assert "  in f\\x1b[2J" in text
    assert text.endswith("again: mlsched pipeline retry 20261126-101500000-abcdef")
    assert "Process" not in text
    assert "Process:   12 of host" in run_text(make_run(process=process), NOW)


def test_a_plan_is_wrapped_to_80_columns():
    steps = ("filter (km > 0)", "project " + ", ".join(f"column_{n}" for n in range(40)))
    stages = (
        StageExplanation("scan", "csv: rides.csv", steps, 1, 1 << 30, 5 << 20),
        StageExplanation("sort", "stage 1", (), 12, None, None),
    )
    found = Explanation("h" * 32, "/a/paces", 16, 4, 2 << 30, 1 << 30, stages)
    text = plan_text("rides.py:daily", found)
    assert max(map(len, text.splitlines())) <= 80
    assert "Splits:  16, of which 4 are pruned" in text
    assert "Reads:   1 GiB of 2 GiB" in text
    assert "1. scan: 1 task, reads 1 GiB, about 5 MiB of memory a task\n   from csv: " in text
    assert "2. sort: 12 tasks\n   from stage 1" in text


def test_progress_as_text():
    assert (
        progress_text(make_progress()) == "25%, scan 3/12 tasks, 1,200,000 rows, 5 B/s, 15s to go"
    )
    assert progress_text(make_progress(bytes_here=0, bytes_total=0)).startswith(
        "25%, scan 3/12 tasks, 1,200,000 rows"
    )


def test_work_that_is_left_after_the_input_is_neither_all_nor_at_its_end():
    late = make_progress(stage="group_by", tasks_done=8, bytes_done=100, bytes_here=100)
    assert progress_text(late) == "99%, group_by 8/12 tasks, 1,200,000 rows, 20 B/s, 5.0s so far"
    ended = make_progress(tasks_done=12, bytes_done=100, bytes_here=100)
    assert progress_text(ended).startswith("100%, ")


def test_progress_that_cannot_be_written_ends_no_run(monkeypatch):
    monkeypatch.setattr(pipeline_progress, "LINE_PERIOD_S", 0.0)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        Lines().show(make_progress())
        with suppress(OSError):
            full.close()


def test_lines_come_at_tenths_and_after_a_while_and_never_two_a_second(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pipeline_progress.time, "monotonic", lambda: clock[0])
    lines = Lines()
    for now_s, done in ((0.5, 20), (1.5, 31), (1.6, 49), (3.0, 39), (12.0, 41), (13.5, 42)):
        clock[0] = now_s
        lines.show(make_progress(bytes_done=done))
    shown = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["31%", "41%"]


def test_what_shows_progress_depends_on_where_it_goes(monkeypatch):
    assert type(make_meter(Session())) is Lines
    assert type(make_meter(Session("json"))) is Meter
    assert type(make_meter(Session(quiet=True))) is Meter
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert type(make_meter(Session("json"))) is Bar
    assert type(make_meter(Session(quiet=True))) is Meter
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_meter(Session())) is Lines


def test_the_command_of_a_run_can_be_pasted():
    run = make_run(interval="2026-11-26", parameters={"a": "x y", "b": "$HOME"})
    assert command_of(run) == (
        "mlsched pipeline run rides.py:daily --interval 2026-11-26 --set 'a=x y' --set 'b=$HOME'"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_and_handlers_come_back(number):
    told = []
    before = signal.getsignal(number)
    with Interrupts(lambda: told.append("first"), lambda: told.append("second")) as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interrupts.exit_code == 128 + number
    assert told == ["first"]
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once():
    code = (
        "import signal; from mlsched.api.pipelines.interrupts import Interrupts\n"
        "with Interrupts(lambda: None, lambda: print('left', flush=True)):\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: signal.raise_signal(signal.SIGTERM)\n"
        "    print('never')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (143, b"left\n")


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(lambda: None, lambda: None) as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert interrupts.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_runs_are_completed_from_records_alone(run, installation):
    from mlsched.api.pipelines.records import PipelineRuns
    from mlsched.cli.completing import complete_pipeline_run

    assert complete_pipeline_run("") == []
    folder = installation / "state" / "mlsched" / "pipelines"
    runs = PipelineRuns(folder)
    runs.create(make_run())
    runs.create(make_run(id="20261126-101500001-abcdef", pipeline="other"))
    (folder / "broken.json").write_text("{")
    assert complete_pipeline_run("") == [
        "other", "daily", "paces", "20261126-101500001-abcdef", "20261126-101500000-abcdef",
    ]  # fmt: skip
    assert complete_pipeline_run("pa") == ["paces"]
    assert run("pipeline", "show", "paces").out.startswith("Run:")
