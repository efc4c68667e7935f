"""Types are made ready for decoding when a module is imported, never by the first of two threads.

msgspec 0.22 prepares a Struct at its first use, and a thread that comes meanwhile sees half of it:
the interpreter crashes. A Decoder that a module makes is ready before any thread is; what converts
takes the type from such a Decoder.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p for folder in ("mlsched", "pipelines") for p in (ROOT / folder).rglob("*.py"))


def late_types(source: str) -> Iterator[int]:
    """Lines in functions that decode to, or make a decoder of, a type."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                has_type = any(word.arg == "type" for word in call.keywords)
                if call.func.attr == "decode" and has_type:
                    yield call.lineno
                is_convert = ast.unparse(call.func) == "msgspec.convert"
                if is_convert and not ast.unparse(call.args[1]).endswith(".type"):
                    yield call.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_decodes_to_a_type_that_is_not_ready(path: Path) -> None:
    assert sorted(set(late_types(path.read_text(encoding="utf-8")))) == []


def test_such_calls_are_found() -> None:
    source = "def f(x):\n    a = msgspec.json.decode(x, type=A)\n    return msgspec.convert(x, B)\n"
    assert sorted(late_types(source)) == [2, 3]
    assert list(late_types("def f(x):\n    return msgspec.convert(x, DECODER.type)\n")) == []
