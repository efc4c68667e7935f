"""Output of jobs on our own streams: exact, or by line with prefix, time and escapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.api.logs import Record
from mlsched.cli.following import prefix_of
from mlsched.cli.render.outputs import Printer, escape_controls


def _record(data, *, rank=0, stream="stdout", ends_line=True):
    return Record(rank, "2026-11-26T13:00:00.000000000Z", stream, ends_line, data)


def test_a_job_of_one_process_is_printed_byte_for_byte(capfdbinary):
    printer = Printer(split=True)
    printer.print(_record(b"\x00\xff\x1b[31m", ends_line=False))
    printer.print(_record(b"end"))
    printer.print(_record(b"oops", stream="stderr"))
    printer.finish()
    assert capfdbinary.readouterr() == (b"\x00\xff\x1b[31mend\n", b"oops\n")


def test_lines_of_ranks_are_prefixed_and_never_mixed(capfdbinary):
    printer = Printer(split=True, prefixed=True)
    printer.print(_record(b"ab", ends_line=False), "[0] ")
    printer.print(_record(b"xy", rank=1), "[1] ")
    printer.print(_record(b"cd"), "[0] ")
    printer.print(_record(b"no end", rank=1, ends_line=False), "[1] ")
    printer.finish()
    assert capfdbinary.readouterr().out == b"[1] xy\n[0] abcd\n[1] no end\n"


def test_without_split_both_streams_go_to_standard_output(capfdbinary):
    printer = Printer(split=False)
    printer.print(_record(b"a"))
    printer.print(_record(b"b", stream="stderr"))
    printer.finish()
    assert capfdbinary.readouterr() == (b"a\nb\n", b"")


def test_timestamps_come_first(capfdbinary):
    printer = Printer(split=False, timestamps=True)
    printer.print(_record(b"a"), "[3] ")
    printer.finish()
    assert capfdbinary.readouterr().out == b"[3] 2026-11-26T13:00:00.000000000Z a\n"


def test_a_line_without_end_does_not_fill_the_memory(capfdbinary):
    printer = Printer(split=False, prefixed=True)
    for _ in range(80):
        printer.print(_record(b"x" * 16384, ends_line=False), "[0] ")
    assert capfdbinary.readouterr().out.count(b"\n") >= 1
    printer.finish()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain\ttext", b"plain\ttext"),
        (b"\x1b[2J", b"^[[2J"),
        (b"\x00\x07\x7f", b"^@^G^?"),
        (b"dos line\r", b"dos line"),
        (b"10%\r20%", b"10%^M20%"),
        ("\x9b31m ü".encode(), "\\x9b31m ü".encode()),
        (b"\xff", "\ufffd".encode()),
    ],
)
def test_controls_are_shown_and_not_obeyed(data, shown):
    assert escape_controls(data) == shown


@given(st.binary())
def test_whatever_a_job_prints_cannot_control_the_terminal(data):
    shown = escape_controls(data.replace(b"\n", b"")).decode()
    assert not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 for one in shown if one not in "\t\n")


@pytest.mark.parametrize(
    ("jobs", "ranks", "expected"),
    [(False, False, ""), (False, True, "[2] "), (True, False, "[7] "), (True, True, "[7.2] ")],
)
def test_a_prefix_says_element_and_rank_where_there_are_several(jobs, ranks, expected):
    job = {"name": "a[7]", "array_index": 7}
    assert prefix_of(job, several_jobs=jobs, several_ranks=ranks)(2) == expected
