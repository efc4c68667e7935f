"""The layers hold, and the contracts can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def test_every_import_contract_is_kept() -> None:
    found = subprocess.run(
        [LINT, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-3000:]


def test_the_contracts_find_a_planted_import(tmp_path: Path) -> None:
    package = tmp_path / "planted"
    (package / "core").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core" / "__init__.py").write_text("import time\n")
    config = tmp_path / ".importlinter"
    config.write_text(
        "[importlinter]\nroot_package = planted\ninclude_external_packages = True\n"
        "[importlinter:contract:1]\nname = pure\ntype = forbidden\n"
        "source_modules = planted.core\nforbidden_modules = time\n"
    )
    found = subprocess.run(
        [LINT, "--no-cache", "--config", config],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stdout
    assert "planted.core -> time" in found.stdout


def test_the_concepts_page_shows_the_table_of_states() -> None:
    from mlsched.core.lifecycle import TRANSITIONS

    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    drawn: dict[tuple[str, str], set[str]] = {}
    for line in page.splitlines():
        left, arrow, rest = line.strip().partition(" --> ")
        if arrow and left != "[*]" and ": " in rest:
            after, moves = rest.split(": ", 1)
            for move in moves.split(", "):
                drawn.setdefault((left, move), set()).add(after)
    expected = {(str(s), str(m)): {str(after)} for (s, m), after in TRANSITIONS.items()}
    assert drawn == expected
