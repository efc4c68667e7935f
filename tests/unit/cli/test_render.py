"""Tables, times and text for terminals: readable in 80 columns, and never obeyed as control."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.cli.render.dashboards import bar, dashboard_text
from mlsched.cli.render.jobs import job_text, jobs_table
from mlsched.cli.render.tables import cut, format_pairs, format_table, text_width
from mlsched.cli.render.texts import format_since, one_line, printable

NOW = datetime(2026, 11, 26, 13, 0, 0, tzinfo=UTC)


def job(**changes):
    return {
        "name": "train-1",
        "id": "abc",
        "state": "PENDING",
        "reason": {"code": "WaitingForCapacity", "message": "needs 2 GPUs, 1 is free"},
        "exit_code": None,
        "submitted_at": "2026-11-26T12:58:00.000Z",
        "started_at": None,
        "ended_at": None,
        "attempt": 0,
        "queue": "default",
        "priority": 0,
        "gpus": [],
        "user": "ann",
        "command": ["python", "a b.py"],
        "array": None,
        "array_index": None,
        "retries_left": 0,
        "labels": {},
        "output_bytes": None,
        "output_lost_bytes": None,
        "output_dropped_bytes": None,
        **changes,
    }


def test_a_table_of_jobs():
    assert jobs_table([job()], NOW).splitlines() == [
        "NAME     STATE    GPUS  QUEUE    AGE    REASON",
        "train-1  PENDING  -     default  2m00s  needs 2 GPUs, 1 is free",
    ]


def test_an_array_is_one_row_with_its_counts():
    row = job(array={"size": 5, "states": {"PENDING": 3, "RUNNING": 2}}, state="RUNNING")
    assert "3 pending, 2 running" in jobs_table([row], NOW)


def test_wide_adds_what_programs_need_less():
    lines = jobs_table([job(state="FAILED", exit_code=3)], NOW, wide=True).splitlines()
    assert "python 'a b.py'" in lines[1]
    assert lines[0].split()[:4] == ["NAME", "ID", "STATE", "EXIT"]


@given(
    st.lists(st.tuples(st.text(max_size=60), st.text(max_size=200)), max_size=5),
    st.integers(60, 120),
)
def test_no_line_is_wider_than_the_screen(rows, width):
    table = format_table(("NAME", "REASON"), rows, width=width)
    assert all(text_width(line) <= width for line in table.splitlines())


@given(st.text())
def test_no_cell_can_control_the_terminal(text):
    table = format_table(("A", "B"), [[text, text]], color=False)
    assert table.count("\n") == 1
    assert not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 for one in table if one != "\n")
    table.encode()


def test_a_job_named_by_an_attacker_is_shown_as_text():
    shown = jobs_table([job(name="\x1b]0;owned\x07", queue="a\nb")], NOW)
    assert "\x1b" not in shown
    assert "\\x1b]0;owned\\x07" in shown


def test_wide_letters_count_double():
    assert text_width("模型") == 4
    assert cut("模型模型", 5) == "模型…"
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"


def test_colours_only_when_asked_for():
    assert "\x1b[31mFAILED\x1b[0m" in format_table(("S", "X"), [["FAILED", "x"]], color=True)
    assert "\x1b" not in format_table(("S", "X"), [["FAILED", "x"]])


def test_headers_can_be_left_out():
    assert format_table(("A", "B"), [["1", "2"]], heads=False) == "1  2"
    assert format_table(("A", "B"), [], heads=False) == ""


def test_pairs_without_a_value_are_left_out():
    assert format_pairs([("Name", "x"), ("Empty", ""), ("State", "y")]) == "Name:  x\nState: y"


def test_controls_are_spelt_out_and_letters_stay():
    assert printable("a\tb\nc") == "a\tb\nc"
    assert printable("\x1b[2J\x9b\u202eü模") == "\\x1b[2J\\x9b\\u202eü模"
    assert printable("\udc80") == "\\udc80"
    assert one_line(" a\n b\t") == "a b"


@pytest.mark.parametrize(
    ("at", "shown"),
    [("2026-11-26T12:59:55Z", "5.0s"), (None, "-"), ("2026-11-26T13:00:09Z", "0s")],
)
def test_ages(at, shown):
    assert format_since(at, NOW) == shown


def test_show_tells_everything_and_no_value_of_a_variable():
    text = job_text(
        job(
            state="FAILED",
            exit_code=1,
            attempt=2,
            started_at="2026-11-26T12:59:00Z",
            ended_at="2026-11-26T12:59:30Z",
            document={"spec": {"env": {"TOKEN": "secret"}, "workdir": "/w"}},
            memory_peak_bytes=1 << 20,
            enforcement={"memory": "cgroup v2", "cpus": "none"},
            placement=[{"node": "box", "gpus": ["GPU-1"], "cpus": 2, "memory_bytes": 0}],
            attempts=[
                {"number": 1, "cause": "signalled", "exit_code": 137, "run_s": 1, "message": "x"},
                {"number": 2, "cause": "exited", "exit_code": 1, "run_s": 2, "message": ""},
            ],
            progress={"done": 1, "total": 4, "unit": "steps", "note": ""},
            wait_s=60.0,
            run_s=30.0,
        ),
        lambda words, job: f"mlsched {words} {job['name']}",
    )
    expected = (
        *("FAILED, exit code 1", "TOKEN", "/w", "1 MiB at most", "memory by cgroup v2"),
        *("box: 2 CPUs, GPU-1", "signalled", "1/4 steps (25%)", "mlsched retry train-1"),
    )
    for word in expected:
        assert word in text
    assert "secret" not in text


def test_top_shows_the_machine_its_gpus_and_its_jobs():
    node = {
        "name": "box",
        "milli_cpus": 4000,
        "free_milli_cpus": 1000,
        "memory_bytes": 1 << 33,
        "free_memory_bytes": 1 << 32,
        "devices": [
            {"uuid": "GPU-1", "model": "H100", "memory_bytes": 1 << 36, "profile": "",
             "healthy": True, "health_reason": "", "holder": "train-1"},
            {"uuid": "GPU-2", "model": "H100", "memory_bytes": 1 << 36, "profile": "",
             "healthy": False, "health_reason": "Xid 79", "holder": None},
        ],
    }  # fmt: skip
    running = job(state="RUNNING", progress={"done": 1, "total": 2}, gpus=["GPU-1"])
    text = dashboard_text({"node": node, "jobs": [running]}, color=False)
    for word in ("3/4 given", "4 GiB/8 GiB", "1/2 held", "Xid 79", "train-1", "50%"):
        assert word in text
    empty = {**node, "devices": [], "notes": ["you may not list nodes"]}
    text = dashboard_text({"node": empty, "jobs": []}, color=False)
    assert "no active jobs" in text
    assert "\nnote: you may not list nodes\n" in text


@pytest.mark.parametrize(("part", "whole", "cells"), [(0, 4, 0), (4, 4, 20), (9, 4, 20), (1, 0, 0)])
def test_bars_stay_in_their_frame(part, whole, cells):
    assert bar(part, whole).count("#") == cells
    assert len(bar(part, whole)) == 22


def test_text_that_the_terminal_cannot_encode_does_not_fail(capfdbinary, monkeypatch):
    import io

    from mlsched.cli.session import write

    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    write("grün")
    assert buffer.getvalue() == b"gr\\xfcn\n"
