"""Output files: what a job wrote comes back, byte for byte, through rotations and cuts."""

from __future__ import annotations

import os
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.api import logfiles
from mlsched.api.logfiles import find_ranks
from mlsched.api.logs import (
    AttemptLog,
    RankLog,
    parse_blocks,
    parse_record,
    parse_records,
    read_attempt,
)
from mlsched.api.outputs import join_lines


def _line(data: bytes, *, flag: str = "F", stream: str = "stdout", second: int = 0) -> bytes:
    return f"2026-11-26T13:00:{second:02d}.000000000Z {stream} {flag} ".encode() + data + b"\n"


def test_a_record_is_time_stream_and_bytes():
    record = parse_record(3, _line(b"hello  world ", stream="stderr").removesuffix(b"\n"))
    assert record is not None
    assert (record.rank, record.stream, record.ends_line) == (3, "stderr", True)
    assert record.at == "2026-11-26T13:00:00.000000000Z"
    assert record.raw == b"hello  world \n"


@pytest.mark.parametrize("line", [b"", b"garbage", b"2026 stdout F x", b"\x00" * 60])
def test_what_is_no_record_is_left_out(line):
    assert parse_record(0, line) is None


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans())))
def test_the_bytes_of_a_job_come_back_exactly(tmp_path_factory, pieces):
    directory = tmp_path_factory.mktemp("attempt")
    clean = [(data.replace(b"\n", b""), whole) for data, whole in pieces]
    lines = [_line(data, flag="F" if whole else "P") for data, whole in clean]
    (directory / "rank-0.log").write_bytes(b"".join(lines))
    expected = b"".join(data + (b"\n" if whole else b"") for data, whole in clean)
    assert b"".join(record.raw for record in read_attempt(directory)) == expected


LINES = st.one_of(
    st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"") + b"\n"),
    st.builds(
        lambda data, flag, stream, second: _line(
            data.replace(b"\n", b""), flag=flag, stream=stream, second=second
        ),
        st.one_of(st.binary(max_size=20), st.just(_line(b"x").strip())),
        st.sampled_from("FFFP"),
        st.sampled_from(["stdout", "stdout", "stderr"]),
        st.integers(0, 2),
    ),
)


@given(st.lists(LINES, max_size=30))
def test_blocks_are_the_same_bytes_in_the_same_order(lines):
    def joined(records):
        return [
            (key, b"".join(one.raw for one in group))
            for key, group in groupby(records, lambda one: (one.at, one.stream))
        ]

    data = b"".join(lines)
    assert joined(parse_blocks(0, data)) == joined(parse_records(0, data))


def test_what_was_written_at_once_is_one_block():
    data = _line(b"") * 1000 + _line(b"part", flag="P") + _line(b"ed", second=1)
    assert [record.data for record in parse_blocks(0, data)] == [b"\n" * 999, b"part", b"ed"]


def test_a_log_is_read_as_it_grows(tmp_path):
    log = RankLog(tmp_path, 0)
    assert log.read() == []
    path = tmp_path / "rank-0.log"
    path.write_bytes(_line(b"one"))
    assert [record.data for record in log.read()] == [b"one"]
    with path.open("ab") as file:
        file.write(_line(b"two")[:-5])
    assert log.read() == []
    with path.open("ab") as file:
        file.write(_line(b"two")[-5:])
    assert [record.data for record in log.read()] == [b"two"]
    log.close()


def test_a_record_that_is_taken_back_is_not_read(tmp_path):
    """The supervisor cuts off a half-written record when the disk was full."""
    path = tmp_path / "rank-0.log"
    path.write_bytes(_line(b"one") + _line(b"lost")[:-3])
    log = RankLog(tmp_path, 0)
    assert [record.data for record in log.read()] == [b"one"]
    os.truncate(path, len(_line(b"one")))
    with path.open("ab") as file:
        file.write(_line(b"two"))
    assert [record.data for record in log.read()] == [b"two"]
    log.close()


def test_a_reader_passes_through_rotations(tmp_path):
    path = tmp_path / "rank-0.log"
    path.write_bytes(_line(b"1") + _line(b"2"))
    log = RankLog(tmp_path, 0)
    assert [record.data for record in log.read()] == [b"1", b"2"]
    with path.open("ab") as file:
        file.write(_line(b"3"))
    path.rename(tmp_path / "rank-0.log.1")
    path.write_bytes(_line(b"4"))
    (tmp_path / "rank-0.log.1").rename(tmp_path / "rank-0.log.2")
    path.rename(tmp_path / "rank-0.log.1")
    path.write_bytes(_line(b"5"))
    found = []
    while records := log.read():
        found += [record.data for record in records]
    assert found == [b"3", b"4", b"5"]
    log.close()


def test_a_reader_goes_on_when_its_file_was_dropped(tmp_path):
    path = tmp_path / "rank-0.log"
    path.write_bytes(_line(b"1"))
    log = RankLog(tmp_path, 0)
    assert [record.data for record in log.read()] == [b"1"]
    path.unlink()
    (tmp_path / "rank-0.log.1").write_bytes(_line(b"7"))
    path.write_bytes(_line(b"8"))
    assert [record.data for record in log.read()] == [b"7"]
    assert [record.data for record in log.read()] == [b"8"]
    log.close()


def test_ranks_are_merged_by_time(tmp_path):
    (tmp_path / "rank-0.log").write_bytes(_line(b"a", second=1) + _line(b"c", second=3))
    (tmp_path / "rank-10.log").write_bytes(_line(b"b", second=2))
    assert find_ranks(tmp_path) == [0, 10]
    assert [(r.rank, r.data) for r in read_attempt(tmp_path)] == [(0, b"a"), (10, b"b"), (0, b"c")]
    assert [r.data for r in read_attempt(tmp_path, 10)] == [b"b"]


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 5, 9, 50])
def test_a_tail_is_the_last_lines_of_all_files(tmp_path, lines):
    (tmp_path / "rank-0.log.1").write_bytes(b"".join(_line(b"%d" % n, second=n) for n in range(5)))
    (tmp_path / "rank-0.log").write_bytes(b"".join(_line(b"%d" % n, second=n) for n in (5, 6, 7)))
    expected = [b"%d" % n for n in range(8)][8 - min(lines, 8) :]
    assert [record.data for record in read_attempt(tmp_path, tail=lines)] == expected


def test_parts_of_a_line_belong_to_it_in_a_tail(tmp_path):
    (tmp_path / "rank-0.log").write_bytes(
        _line(b"one") + _line(b"tw", flag="P") + _line(b"o") + _line(b"unfinished", flag="P")
    )
    assert list(join_lines(read_attempt(tmp_path, tail=1))) == ["unfinished"]
    assert list(join_lines(read_attempt(tmp_path, tail=2))) == ["two", "unfinished"]


def test_an_unfinished_line_takes_no_second_file_into_a_tail(tmp_path):
    """A progress bar after a rotation: the older file is not needed."""
    (tmp_path / "rank-0.log.1").write_bytes(_line(b"old") * 100)
    (tmp_path / "rank-0.log").write_bytes(_line(b"new") * 100 + _line(b"bar", flag="P"))
    log = RankLog(tmp_path, 0)
    log.skip_to_tail(5)
    assert [record.data for record in log.read()] == [b"new"] * 4 + [b"bar"]
    log.close()


def test_what_is_written_while_it_is_read_does_not_keep_the_reading_going(tmp_path):
    path = tmp_path / "rank-0.log"
    path.write_bytes(_line(b"1"))
    found = []
    for record in read_attempt(tmp_path):
        found.append(record.data)
        with path.open("ab") as file:
            file.write(_line(b"more"))
        assert len(found) < 10
    assert found == [b"1"]


@pytest.mark.parametrize("opened_before", [0, 1, 2, 3])
def test_a_rotation_while_files_are_looked_for_loses_and_repeats_nothing(
    tmp_path, monkeypatch, opened_before
):
    """Names change between the listing and the opening of each file."""
    path = tmp_path / "rank-0.log"
    for name, text in (("rank-0.log.2", b"A"), ("rank-0.log.1", b"B"), ("rank-0.log", b"C")):
        (tmp_path / name).write_bytes(_line(text))
    log = RankLog(tmp_path, 0)
    found = [record.data for record in log.read()]
    real_open, calls = os.open, []

    def rotate_then_open(name, flags):
        if len(calls) == opened_before:
            for number in (2, 1):
                (tmp_path / f"rank-0.log.{number}").rename(tmp_path / f"rank-0.log.{number + 1}")
            path.rename(tmp_path / "rank-0.log.1")
            path.write_bytes(_line(b"D"))
        calls.append(name)
        return real_open(name, flags)

    monkeypatch.setattr(logfiles.os, "open", rotate_then_open)
    while records := log.read():
        found += [record.data for record in records]
    log.close()
    assert found == [b"A", b"B", b"C", b"D"]


def test_a_tail_of_a_large_file_is_exact(tmp_path):
    path = tmp_path / "rank-0.log"
    path.write_bytes(b"".join(_line(b"%06d" % n + b"x" * 300) for n in range(2000)))
    log = RankLog(tmp_path, 0)
    log.skip_to_tail(700)
    assert [int(record.data[:6]) for record in log.read()] == list(range(1300, 2000))
    log.close()


def test_output_before_a_time_is_left_out(tmp_path):
    (tmp_path / "rank-0.log").write_bytes(_line(b"old", second=1) + _line(b"new", second=9))
    found = read_attempt(tmp_path, since="2026-11-26T13:00:05")
    assert [record.data for record in found] == [b"new"]


def test_an_attempt_that_has_no_directory_yet_has_no_output(tmp_path):
    assert AttemptLog(tmp_path / "none").read() == []
    assert list(read_attempt(tmp_path / "none")) == []


def test_a_link_in_place_of_a_log_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(_line(b"secret"))
    (tmp_path / "attempt").mkdir()
    (tmp_path / "attempt" / "rank-0.log").symlink_to(secret)
    assert list(read_attempt(tmp_path / "attempt")) == []


def test_lines_of_two_streams_do_not_mix(tmp_path):
    (tmp_path / "rank-0.log").write_bytes(
        _line(b"ab", flag="P") + _line(b"error", stream="stderr") + _line(b"cd")
    )
    assert list(join_lines(read_attempt(tmp_path))) == ["error", "abcd"]
