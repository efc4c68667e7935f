"""--set as arguments: every kind of annotation, and errors that list what a function takes."""

from __future__ import annotations

import functools

import pytest

from mlsched.api.pipelines.parameters import bind, convert, parse_settings
from mlsched.errors import SpecError


def function(text: str, count: int, share: float = 0.5, flag: bool = False, *, other=3, note=None):
    """Takes one of each kind; its annotations are text, as in files with future annotations."""


def test_values_are_converted_by_annotation_or_default():
    given = {"text": "7", "count": "-7", "share": "1e3", "flag": "Yes", "other": "9", "note": "5"}
    assert bind(function, "f", given, "") == {
        "text": "7", "count": -7, "share": 1000.0, "flag": True, "other": 9, "note": "5",
    }  # fmt: skip


def test_annotations_may_be_optional_and_may_be_types():
    def optional(a: int | None = None, b: "float | None" = None, c: bool | None = None): ...  # noqa: UP037

    optional.__annotations__["a"] = int | None
    assert bind(optional, "f", {"a": "1", "b": "2", "c": "off"}, "") == {
        "a": 1, "b": 2.0, "c": False,
    }  # fmt: skip


def test_the_interval_goes_to_functions_that_take_it():
    def takes(interval): ...

    def takes_not(): ...

    assert bind(takes, "f", {}, "2026-11-26") == {"interval": "2026-11-26"}
    assert bind(takes_not, "f", {}, "2026-11-26") == {}
    with pytest.raises(SpecError, match="f needs --interval VALUE"):
        bind(takes, "f", {}, "")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"text": "a"}, "f needs --set count=VALUE."),
        ({"text": "a", "count": "1", "cuont": "1"}, "f takes no parameter 'cuont'."),
        ({"text": "a", "count": "1.5"}, "--set count: expected a whole number, found '1.5'."),
        ({"text": "a", "count": ""}, "--set count: expected a whole number, found ''."),
        ({"text": "a", "count": "1", "flag": "2"}, "expected true or false, found '2'."),
        ({"text": "a", "count": "1", "share": "x"}, "--set share: expected a number, found 'x'."),
    ],
)
def test_what_does_not_fit_is_an_error(given, told):
    with pytest.raises(SpecError) as caught:
        bind(function, "f", given, "")
    assert told in caught.value.message


def test_errors_list_what_the_function_takes():
    with pytest.raises(SpecError) as caught:
        bind(function, "f", {"x": "1"}, "")
    assert caught.value.hint == (
        "f takes text: str, count: int, share: float = 0.5, flag: bool = False, other=3, note=None."
    )


def test_other_annotations_are_refused_when_they_are_set():
    def takes(rows: list[int] = [], who: Unknown = None): ...  # noqa: B006, F821

    assert bind(takes, "f", {}, "") == {}
    for name in ("rows", "who"):
        with pytest.raises(SpecError, match=f"the parameter {name} is .*int, float or str"):
            bind(takes, "f", {name: "1"}, "")


def test_keywords_that_are_caught_whole_come_as_text():
    def takes(n: int = 0, **more): ...

    assert bind(takes, "f", {"n": "1", "other": "2"}, "") == {"n": 1, "other": "2"}


def test_parameters_without_a_name_and_builtins_are_refused():
    def takes(a, /): ...

    with pytest.raises(SpecError, match="can be given by name"):
        bind(takes, "f", {}, "")
    with pytest.raises(SpecError, match="cannot tell"):
        bind(type, "type", {}, "")


def test_partial_functions_have_parameters_too():
    assert bind(functools.partial(function, "x"), "f", {"count": "1"}, "") == {"count": 1}


def test_settings_are_pairs_and_the_last_of_a_key_counts():
    assert parse_settings(["a=1", "b=x=y", "a=2", "c="]) == {"a": "2", "b": "x=y", "c": ""}


@pytest.mark.parametrize("word", ["a", "=1", "a-b=1", "interval=1", "a=\udcff", "1a=2"])
def test_settings_of_another_form_are_refused(word):
    with pytest.raises(SpecError, match="--set"):
        parse_settings([word])


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("inf", float, float("inf")),
        ("-1e999", float, float("-inf")),
        ("1_000", int, 1000),
        (" 5 ", int, 5),
        ("OFF", bool, False),
        ("", str, ""),
    ],
)
def test_values_are_what_python_takes(text, kind, expected):
    assert convert(text, kind, "x") == expected
