"""The identity of a user's function: the same code is the same run, other code is another."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsched.errors import PipelineError
from mlsched_pipelines.fingerprints import fingerprint


def made(source: str, **names: Any) -> Callable[..., Any]:
    """The function ``f`` of some source, as a user would have it in a module."""
    module = types.ModuleType("users")
    vars(module).update(names)
    exec(source, vars(module))
    function: Callable[..., Any] = vars(module)["f"]
    return function


def test_comments_and_line_numbers_do_not_count() -> None:
    one = made("def f(b):\n    return b + 1\n")
    two = made("# a note\n\n\ndef f(b):\n    # more\n    return b + 1\n")
    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize(
    "other",
    [
        "def f(b):\n    return b + 2\n",
        "def f(b):\n    return b - 1\n",
        "def f(b, c=1):\n    return b + 1\n",
        "def f(b):\n    return [x + 1 for x in b]\n",
    ],
)
def test_other_code_is_another_function(other: str) -> None:
    assert fingerprint(made("def f(b):\n    return b + 1\n")) != fingerprint(made(other))


def test_a_global_constant_and_a_helper_count() -> None:
    source = "def helper(b):\n    return b * SCALE\ndef f(b):\n    return helper(b)\n"
    assert fingerprint(made(source, SCALE=1)) == fingerprint(made(source, SCALE=1))
    assert fingerprint(made(source, SCALE=1)) != fingerprint(made(source, SCALE=2))
    changed = source.replace("b * SCALE", "b / SCALE")
    assert fingerprint(made(source, SCALE=1)) != fingerprint(made(changed, SCALE=1))


def test_closed_over_values_and_bound_arguments_count() -> None:
    def scaled(by: Any) -> Callable[..., Any]:
        return lambda b: b * by

    assert fingerprint(scaled(2)) == fingerprint(scaled(2))
    assert fingerprint(scaled(2)) != fingerprint(scaled(3))
    assert fingerprint(scaled(np.arange(3))) != fingerprint(scaled(np.arange(4)))
    assert fingerprint(functools.partial(pow, 2)) != fingerprint(functools.partial(pow, 3))


def test_sets_count_by_their_members_not_their_order() -> None:
    def kept(names: set[str]) -> Callable[..., Any]:
        return lambda b: b in names

    words = [f"name{i}" for i in range(50)]
    assert fingerprint(kept(set(words))) == fingerprint(kept({*reversed(words)}))


def test_a_function_that_calls_itself_has_a_fingerprint() -> None:
    assert fingerprint(made("def f(b):\n    return f(b - 1) if b else 0\n"))


def test_an_object_counts_by_its_class_and_its_state() -> None:
    class Scale:
        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, b: int) -> int:
            return b * self.by

    assert fingerprint(Scale(2)) == fingerprint(Scale(2))
    assert fingerprint(Scale(2)) != fingerprint(Scale(3))


def test_what_cannot_be_pickled_is_said_with_a_way_out() -> None:
    generator = (x for x in range(3))
    with pytest.raises(PipelineError, match="generator") as caught:
        fingerprint(lambda: generator)
    assert "identity=" in caught.value.hint


def _make(constant: int, words: tuple[str, ...], base: int) -> Any:
    class Base:
        def shift(self, value: int) -> int:
            return value + base

    class Fix(Base):
        known = words

        @staticmethod
        def go(value: int) -> int:
            return value * constant

        @property
        def scale(self) -> int:
            return constant

    return Fix


def test_a_class_counts_by_all_that_it_and_its_bases_say() -> None:
    def use(kind: Any) -> str:
        return fingerprint(lambda value: kind.go(value) + 1)

    first = use(_make(1, ("a",), 1))
    assert use(_make(1, ("a",), 1)) == first
    others = {use(_make(2, ("a",), 1)), use(_make(1, ("b",), 1)), use(_make(1, ("a",), 2))}
    assert len(others | {first}) == 4


SCRIPT = """
from mlsched_pipelines.fingerprints import fingerprint
class Scaler:
    def __init__(self, by): self.by = by
    def apply(self, value): return value * self.by
scaler = Scaler({by})
print(fingerprint(lambda value: scaler.apply(value)))
"""


def test_an_object_of_a_script_has_the_same_fingerprint_in_every_process() -> None:
    def run(by: int) -> str:
        command = [sys.executable, "-c", SCRIPT.format(by=by)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run(2) == run(2) != run(3)


def test_a_module_of_the_user_counts_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for factor in (1, 2, 1):
        (tmp_path / "neighbour.py").write_text(f"def helper(b):\n    return b * {factor}\n")
        sys.modules.pop("neighbour", None)
        importlib.invalidate_caches()
        neighbour = importlib.import_module("neighbour")
        source = "def f(b):\n    return neighbour.helper(b)\n"
        found.append(fingerprint(made(source, neighbour=neighbour)))
    assert found[0] == found[2] != found[1]
