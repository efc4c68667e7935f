"""The README's first command: real data in, a model that learned something and a report out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MLSCHED = [sys.executable, "-m", "mlsched"]


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLSCHED_", "XDG_"))}
    kept["HOME"] = str(tmp_path)
    yield kept
    subprocess.run([*MLSCHED, "server", "stop"], env=kept, check=False, capture_output=True)


@pytest.mark.slow
def test_the_demo_learns_from_real_data_and_reports(env: dict[str, str]) -> None:
    found = subprocess.run(
        [*MLSCHED, "demo"], env=env, capture_output=True, text=True, timeout=110, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    told = dict(re.findall(r"^(\w+): (.+)$", found.stdout, re.MULTILINE))
    assert Path(told["result_file"]).is_file()
    assert float(told["rows_per_s"]) > 0
    better = float(told["held_out"]) < float(told["baseline"])
    assert better or "accuracy" in told["metric"]
    assert re.search(r"^placed on .*\nbecause .* is the only node", found.stdout, re.MULTILINE)
