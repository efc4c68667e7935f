"""Start-up: nothing heavy is imported, and a command costs little CPU time."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = (
    *("aiohttp", "apsw", "dask", "fastapi", "kubernetes", "numpy", "pandas", "pyarrow", "pydantic"),
    *("pynvml", "ray", "sklearn", "textual", "torch"),
)
HEAVY_FOR_HELP = (*HEAVY, "asyncio", "cloudpickle", "msgspec", "rich", "sqlite3", "yaml")
CPU_S_MAX = 0.35
"""The budget of the note on user experience for a command, on a 2-core machine of 2026."""

SHOW_MODULES = (
    "import sys; from mlsched.cli.main import main; sys.stdout.flush(); code = main(sys.argv[1:]);"
    "print('\\n@' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})));"
    "sys.exit(code)"
)


def _modules(home, *words):
    ended = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES, *words],
        env=home.env, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return set(ended.stdout.decode().rpartition("@")[2].split())


@pytest.mark.parametrize("words", [["--help"], ["version"], ["--version"], ["help", "ls"]])
def test_help_and_version_import_next_to_nothing(home, words):
    assert not _modules(home, *words) & set(HEAVY_FOR_HELP)


@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["ls", "-o", "json"],
        ["show", "nobody"],
        ["why", "nobody"],
        ["cancel", "nobody"],
        ["server", "status"],
        ["run", "--help"],
        ["run", "--", "true"],
        ["submit", "--", "true"],
        ["logs", "true-1"],
    ],
    ids=" ".join,
)
def test_no_command_imports_what_only_jobs_and_the_service_need(home, words):
    assert not _modules(home, *words) & {*HEAVY, "rich"}


def test_the_python_api_is_imported_by_its_parts():
    code = "import sys, mlsched as ml; print(*sys.modules); ml.progress; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60
    )
    first, second = ended.stdout.decode().splitlines()
    assert not {"msgspec", "asyncio", "typer"} & set(first.split())
    assert not {"msgspec", "asyncio", "typer"} & set(second.split())


@pytest.mark.parametrize("words", [["--help"], ["version"], ["version", "-o", "json"], ["ls"]])
def test_a_command_stays_in_its_cpu_budget(home, words):
    """The best of a few runs counts, and on a busy machine what the libraries alone cost then."""
    home.run("ls")
    libraries = [sys.executable, "-c", "import typer, msgspec, platformdirs"]
    spent = min(_cpu_s(home, home.command(*words)) for _ in range(5))
    assert spent < max(CPU_S_MAX, 1.5 * min(_cpu_s(home, libraries) for _ in range(3)))


def _cpu_s(home, command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=home.env, capture_output=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
