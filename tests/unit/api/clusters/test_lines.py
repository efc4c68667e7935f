"""A kubelet's lines become records that the readers of this machine take, whatever breaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.api.clusters.lines import LineJoiner
from mlsched.api.logs import parse_records

TEXTS = st.binary(max_size=12).map(lambda text: text.replace(b"\n", b"").replace(b"\r", b""))


def stamp(ms: int) -> bytes:
    return f"2026-11-26T13:00:{ms // 1000:02d}.{ms % 1000:03d}000000Z".encode()


def log_of(lines: list[tuple[int, bytes]]) -> bytes:
    return b"".join(stamp(ms) + b" " + text + b"\n" for ms, text in lines)


LOGS = st.lists(st.tuples(st.integers(0, 3000), TEXTS), max_size=30).map(
    lambda lines: [(ms, text) for ms, (_, text) in zip(
        sorted(ms for ms, _ in lines), lines, strict=True)]
)  # fmt: skip


def texts_of(records: bytes) -> list[bytes]:
    return [record.data for record in parse_records(0, records)]


@given(LOGS, st.lists(st.integers(0, 200), max_size=5))
def test_every_line_becomes_one_record_however_it_is_cut(lines, cuts):
    data = log_of(lines)
    joiner = LineJoiner()
    found, begin = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        found += joiner.feed(data[begin:cut])
        begin = max(begin, cut)
    assert texts_of(found + joiner.finish()) == [text for _, text in lines]


@given(LOGS, st.data())
def test_a_stream_that_breaks_anywhere_repeats_nothing_and_loses_nothing(lines, data):
    whole = log_of(lines)
    joiner = LineJoiner()
    found, have = b"", 0
    for _ in range(3):
        joiner.reconnect()
        since = joiner.since
        again = log_of([one for one in lines if stamp(one[0])[:19] >= since[:19].encode()])
        cut = data.draw(st.integers(0, len(again)))
        found += joiner.feed(again[:cut])
        have = max(have, cut)
    joiner.reconnect()
    again = log_of([one for one in lines if stamp(one[0])[:19] >= joiner.since[:19].encode()])
    found += joiner.feed(again) + joiner.finish()
    assert found.count(b"\n") == whole.count(b"\n")
    assert texts_of(found) == [text for _, text in lines]


def test_since_is_the_second_of_the_last_line():
    joiner = LineJoiner()
    assert joiner.since == ""
    joiner.feed(log_of([(500, b"a"), (1700, b"b")]))
    assert joiner.since == "2026-11-26T13:00:01Z"


def test_after_a_rotation_lines_that_were_never_seen_are_kept():
    joiner = LineJoiner()
    joiner.feed(log_of([(100, b"a"), (200, b"b")]))
    joiner.reconnect()
    found = joiner.feed(log_of([(300, b"c"), (400, b"b")]))
    assert texts_of(found) == [b"c", b"b"]


def test_a_last_line_without_an_end_is_kept():
    joiner = LineJoiner("stderr")
    assert joiner.feed(stamp(0) + b" done") == b""
    (record,) = parse_records(0, joiner.finish())
    assert (record.data, record.stream) == (b"done", "stderr")
    assert joiner.finish() == b""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"2026-11-26T15:00:00.123456789+02:00", "2026-11-26T13:00:00.123456789Z"),
        (b"2026-11-26T13:00:00Z", "2026-11-26T13:00:00.000000000Z"),
        (b"2026-11-26T13:00:00.5Z", "2026-11-26T13:00:00.500000000Z"),
    ],
)
def test_times_of_any_zone_and_length_become_utc_with_nine_places(written, expected):
    (record,) = parse_records(0, LineJoiner().feed(written + b" text\n"))
    assert (record.at, record.data) == (expected, b"text")


def test_text_that_looks_like_a_record_stays_text():
    text = b"2026-11-26T13:00:00.000000000Z stderr F no"
    (record,) = parse_records(0, LineJoiner().feed(stamp(0) + b" " + text + b"\n"))
    assert (record.stream, record.data) == ("stdout", text)


TROUBLE = b"failed to create fsnotify watcher: too many open files\n"


def test_a_word_of_the_kubelet_itself_repeats_nothing():
    joiner = LineJoiner()
    found = joiner.feed(log_of([(500, b"a"), (1700, b"b")]) + TROUBLE)
    for _ in range(2):
        assert joiner.since == "2026-11-26T13:00:01Z"
        joiner.reconnect()
        found += joiner.feed(log_of([(1700, b"b")]) + TROUBLE)
    assert texts_of(found) == [b"a", b"b", TROUBLE.rstrip()]
    times = [record.at for record in parse_records(0, found)]
    assert times[1:] == [stamp(1700).decode()] * 2


def test_a_word_of_the_kubelet_between_lines_is_no_line_of_the_job():
    joiner = LineJoiner()
    found = joiner.feed(log_of([(1100, b"a")]) + TROUBLE + log_of([(1200, b"b")]))
    joiner.reconnect()
    found += joiner.feed(log_of([(1100, b"a"), (1200, b"b"), (1300, b"c")]))
    assert [text for text in texts_of(found) if len(text) == 1] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("text", [b"no time", b"2026-99-99T99:99:99Z text", b""])
def test_a_line_without_a_time_before_all_others_is_kept(text):
    joiner = LineJoiner()
    (record,) = parse_records(0, joiner.feed(text + b"\n"))
    assert record.data == text
    assert joiner.since == ""
