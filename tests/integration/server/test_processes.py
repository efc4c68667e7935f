"""A controller whose loop hangs ends by itself, so that another goes on."""

from __future__ import annotations

import subprocess
import sys

STUCK = """
import asyncio, sys, time
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.kubeconfigs import Static
from mlsched.server import processes
from mlsched.server.clusters import ClusterSettings

class Stuck:
    def __init__(self, *_):
        pass

    async def run(self, stop):
        await asyncio.sleep(2 * processes.STUCK_S_MAX)
        print("a loop that turns goes on", flush=True)
        {end}

def hang():
    time.sleep(60)

processes.STUCK_S_MAX = 4.0
processes.ClusterController = Stuck
access = Access("https://127.0.0.1:9", Static("https://127.0.0.1:9"), "team", "prod")
code = processes.serve_cluster(access, ClusterSettings(), sys.stderr)
time.sleep(2 * processes.STUCK_S_MAX)
sys.exit(code)
"""


def run(end: str) -> subprocess.CompletedProcess[str]:
    """Run a controller whose loop turns for a while and then does ``end``."""
    words = [sys.executable, "-c", STUCK.format(end=end)]
    return subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)


def test_a_loop_that_hangs_ends_the_process_and_tells_where() -> None:
    found = run("hang()")
    assert found.stdout == "a loop that turns goes on\n"
    assert found.returncode == 1, found.stderr
    assert "in hang" in found.stderr


def test_a_controller_that_has_ended_is_watched_no_more() -> None:
    found = run("return")
    assert (found.returncode, "ends: it was asked to" in found.stderr) == (0, True), found.stderr
    assert "most recent call" not in found.stderr
