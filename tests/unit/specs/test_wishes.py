"""What annotations ask for, whatever people write into them."""

from __future__ import annotations

import pytest

from mlsched.specs.wishes import (
    CANCEL_ANNOTATION,
    CANCEL_ELEMENTS_ANNOTATION,
    Cancellation,
    Part,
    read_cancellation,
    write_parts,
)


def of_elements(text: str) -> Cancellation:
    found = read_cancellation({CANCEL_ELEMENTS_ANNOTATION: text})
    assert found is not None
    return found


def test_nothing_is_asked_where_no_annotation_says_so() -> None:
    assert read_cancellation({"other": "1"}) is None


@pytest.mark.parametrize(("text", "grace_s"), [("", None), ("7", 7), ("soon", None), ("-1", None)])
def test_a_whole_job_is_asked_with_its_grace(text: str, grace_s: int | None) -> None:
    found = read_cancellation({CANCEL_ANNOTATION: text, CANCEL_ELEMENTS_ANNOTATION: "3:1"})
    assert found is not None
    for index in (None, 0, 3):
        part = found.of(index)
        assert part is not None
        assert part.grace_s == grace_s


def test_elements_are_asked_alone_and_in_ranges() -> None:
    found = of_elements("3, 5-7:30")
    assert [index for index in range(10) if found.of(index)] == [3, 5, 6, 7]
    assert found.of(6) == Part(5, 7, 30)
    assert found.of(None) is None


@pytest.mark.parametrize("text", ["", "x", "-3", "3-", "1;2", "9999999999", "1:999999", "٣", "0x1"])
def test_what_is_amiss_is_passed_over(text: str) -> None:
    assert [i for i in range(100) if of_elements(f"{text},8").of(i)] in ([8], [3, 8])


def test_what_is_asked_last_counts_and_is_written_once() -> None:
    wish = of_elements("0-9,4:5").and_also(4, 60).and_also(11, None).and_also(4, 0)
    assert write_parts(wish) == "4:0,11,0-9"
    assert of_elements(write_parts(wish)).of(4) == Part(4, 4, 0)
