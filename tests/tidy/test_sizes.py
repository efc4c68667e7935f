"""Style as a test: sizes of files, functions, classes; words that must not appear; links."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
TEST_LINES_MAX = 600
CLASS_LINES_MAX = 300

LARGER: dict[str, int] = {}
"""Named exceptions, by ``path`` or ``path:name``: they may shrink and never grow."""


def tracked(*endings: str) -> list[Path]:
    """Files of the project by the end of their names: what git tracks or would track."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / line for line in found.stdout.splitlines() if line.endswith(endings)]
    return [path for path in paths if path.is_file()]


SOURCES = tracked(".py")
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]


def blocks(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Name, lines and limit of each function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1, FUNCTION_LINES_MAX
        elif isinstance(node, ast.ClassDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1, CLASS_LINES_MAX


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_sizes_stay_small(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    text = path.read_text(encoding="utf-8")
    limit = TEST_LINES_MAX if name.startswith("tests/") else MODULE_LINES_MAX
    too_large = [
        f"{name}:{block} has {lines} lines, {most} are allowed"
        for block, lines, most in blocks(ast.parse(text))
        if lines > LARGER.get(f"{name}:{block}", most)
    ]
    lines = len(text.splitlines())
    if lines > LARGER.get(name, limit):
        too_large.append(f"{name} has {lines} lines, {limit} are allowed")
    assert not too_large


def test_no_file_of_generated_or_binary_kind_is_tracked() -> None:
    endings = (".pyc", ".so", ".whl", ".zip", ".parquet", ".arrow", ".db", ".png", ".csv")
    assert tracked(*endings) == []


FORBIDDEN = re.compile(
    r"\b(TODO|FIXME|XXX)\b|(?<![\w.])/work/|://[^\s\"']+/(simple|packages)\b|--index-url|time\.sleep\(",
)
"""Unfinished work, paths of one machine, hosts of package indexes, and waits in unit tests."""

ALLOWED = {"tests/tidy/test_sizes.py"}


def test_no_forbidden_words() -> None:
    found = []
    for path in tracked(".py", ".md", ".sh", ".toml", ".txt", ".yaml", ".c", "Makefile", "run"):
        name = str(path.relative_to(ROOT))
        if name in ALLOWED:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            hit = FORBIDDEN.search(line)
            is_wait = hit is not None and hit[0].startswith("time.sleep")
            if hit and not (is_wait and not name.startswith("tests/unit")):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert not found


NOTEBOOKS = tracked(".ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    import json

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_relative_links_in_the_docs_lead_somewhere() -> None:
    broken = []
    for path in tracked(".md"):
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken
