"""Every command of the README, and what it says that they print, is true."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(README) if kind == language]


def dialogue(body: str) -> Iterator[tuple[str, str]]:
    """Commands and their output; lines that begin with ``>`` belong to the command."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
    for part in parts[1:]:
        first, *lines = part.splitlines(keepends=True)
        more = list(itertools.takewhile(lambda line: line.startswith(">"), lines))
        command = first + "".join(line[2:] or "\n" for line in more)
        yield command.rstrip("\n"), "".join(lines[len(more) :])


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLSCHED_", "XDG_"))}
    kept |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    yield kept
    subprocess.run([sys.executable, "-m", "mlsched", "server", "stop"], env=kept, check=False)


@pytest.mark.timeout(400)
def test_every_command_of_the_readme_prints_what_it_says(
    env: dict[str, str], tmp_path: Path
) -> None:
    for body in blocks("console"):
        for command, output in dialogue(body):
            found = subprocess.run(
                ["bash", "-c", command],
                env=env,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
                check=False,
            )
            assert found.stdout == output, f"$ {command}"


def test_the_python_of_the_readme_runs(env: dict[str, str], tmp_path: Path) -> None:
    for body in blocks("python"):
        expected = re.findall(r"print\(.*\) +# (.*)", body)
        found = subprocess.run(
            [sys.executable, "-c", body],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.splitlines() == expected


def test_the_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {word for body in blocks("sh") for word in re.findall(r"^make (\w+)", body, re.M)}
    assert named == {"demo", "test"}
    assert all(re.search(rf"^{word}:", makefile, re.M) for word in named)
