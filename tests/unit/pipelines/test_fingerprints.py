"""The identity of a user's function: the same code is the same run, other code is another."""

from __future__ import annotations

import collections
import enum
import functools
import importlib
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
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


BEHAVIOURS = {
    "array of a class": "class M:\n    k = np.array([K])\ndef f(b):\n    return b + M.k",
    "object of a class": "class S:\n    def __init__(self, k): self.k = k\n"
    "class M:\n    s = S(K)\ndef f(b):\n    return M.s.k",
    "class in a class": "class M:\n    class I:\n        def g(self): return K\n"
    "def f(b):\n    return M.I().g()",
    "partial method": "class M:\n    def g(self, k): return k\n"
    "    h = functools.partialmethod(g, K)\nm = M()\ndef f(b):\n    return m.h()",
    "slots": "class M:\n    __slots__ = ('k',)\nm = M()\nm.k = K\ndef f(b):\n    return m.k",
    "method of slots": "class M:\n    __slots__ = ()\n    def g(self): return K\n"
    "m = M()\ndef f(b):\n    return m.g()",
    "struct": "class M(msgspec.Struct):\n    a: int\n    def g(self): return K\n"
    "m = M(1)\ndef f(b):\n    return m.g()",
    "state of a struct": "class M(msgspec.Struct):\n    a: int\nm = M(K)\n"
    "def f(b):\n    return m.a",
    "named tuple": "class M(typing.NamedTuple):\n    a: int\n    def g(self): return K\n"
    "m = M(1)\ndef f(b):\n    return m.g()",
    "dict of the user's": "class M(dict):\n    def g(self): return K\nm = M()\n"
    "def f(b):\n    return m.g()",
    "text of the user's": "class M(str):\n    def g(self): return K\nm = M('a')\n"
    "def f(b):\n    return m.g()",
    "metaclass": "class T(type):\n    def g(cls): return K\nclass M(metaclass=T): pass\n"
    "def f(b):\n    return M.g()",
    "factory": "d = collections.defaultdict(lambda: K)\ndef f(b):\n    return d[b]",
    "object in a deque": "class M:\n    def g(self): return K\nd = collections.deque([M()])\n"
    "def f(b):\n    return d[0].g()",
    "cached function": "@functools.lru_cache\ndef g(b): return K\ndef f(b):\n    return g(b)",
    "names in an array": "a = np.zeros(1, [(f'x{K}', 'i4')])\ndef f(b):\n    return a",
    "mask of an array": "a = np.ma.masked_equal([1, 2], K)\ndef f(b):\n    return a",
    "bound method of C": "g = {1: K}.get\ndef f(b):\n    return g(b)",
    "function by type": "@functools.singledispatch\ndef g(b): return 0\n"
    "@g.register(int)\ndef _(b): return K\ndef f(b):\n    return g(b)",
    "constant of a module": "c = types.ModuleType('config')\nc.limit = K\n"
    "def f(b):\n    return c.limit",
    "enumeration": "class M(str, enum.Enum):\n    A = 'a'\n    def g(self): return K\n"
    "def f(b):\n    return M.A.g()",
}


@pytest.mark.parametrize("source", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_whatever_holds_the_behaviour_counts(source: str) -> None:
    modules = (np, functools, collections, msgspec, types, typing, enum)

    def use(constant: int) -> str:
        names = {module.__name__.replace("numpy", "np"): module for module in modules}
        return fingerprint(made(source.replace("K", str(constant)), __name__="users", **names))

    assert use(1) == use(1) != use(2)


IMPORTS = {
    "of the module": "import a\ndef f(b):\n    return a.g(b)",
    "in the function": "def f(b):\n    import a\n    return a.g(b)",
    "of names in the function": "def f(b):\n    from a import g\n    return g(b)",
    "of a package": "import p.deep\ndef f(b):\n    return p.deep.g(b)",
    "of a part of a package": "from p import deep\ndef f(b):\n    return deep.g(b)",
}


@pytest.mark.parametrize("source", IMPORTS.values(), ids=IMPORTS)
def test_modules_of_the_user_count_with_all_that_they_import(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a.py").write_text("def g(b):\n    from p import deep\n    return deep.g(b)\n")
    (tmp_path / "p").mkdir()
    (tmp_path / "p/__init__.py").touch()
    (tmp_path / "p/deep.py").write_text("from .last import g\n")
    found = []
    for factor in (1, 2, 1):
        (tmp_path / "p/last.py").write_text(f"def g(b):\n    return b * {factor}\n")
        for name in ("a", "p", "p.deep", "p.last"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        found.append(fingerprint(made(source)))
    assert found[0] == found[2] != found[1]


def test_installed_functions_and_classes_count_by_their_names_at_once() -> None:
    source = "def f(b):\n    return sub('a', 'b', DataFrame(b))\n"
    names = {"sub": re.sub, "DataFrame": pd.DataFrame}
    assert fingerprint(made(source, **names)) == fingerprint(made(source, **names))
    other = fingerprint(made(source, **names | {"sub": re.split}))
    assert fingerprint(made(source, **names)) != other


def test_functions_that_all_call_each_other_are_looked_at_once() -> None:
    calls = "+".join(f"g{i}(b)" for i in range(30))
    source = "".join(f"def g{i}(b): return {calls}\n" for i in range(30))
    assert fingerprint(made(f"{source}def f(b): return g0(b)"))
