"""``mlsched demo --kubernetes``: pipeline, feed and training as a pod on a real node."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.needs_nodes, pytest.mark.slow]


@pytest.mark.timeout(300)
def test_the_demo_trains_in_a_pod() -> None:
    words = [sys.executable, "-m", "mlsched", "demo", "--kubernetes"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "version 1 built, 1797 rows" in found.stdout
    assert "better than 0.9192, nearest class mean" in found.stdout
    assert "demo SUCCEEDED" in found.stdout
