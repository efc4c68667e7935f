"""A controller whose loop hangs ends by itself, so that another goes on."""

from __future__ import annotations

import subprocess
import sys

STUCK = """
import asyncio, faulthandler, sys, threading
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.kubeconfigs import Static
from mlsched.server import processes
from mlsched.server.clusters import ClusterSettings

class Watch:
    armed, turned = 0, asyncio.Event()

    def dump_traceback_later(self, seconds, *, exit):
        faulthandler.dump_traceback_later(seconds, exit=exit)
        self.armed += 1
        if self.armed == 3:
            self.turned.set()

    def cancel_dump_traceback_later(self):
        faulthandler.cancel_dump_traceback_later()
        self.armed = 0

class Stuck:
    def __init__(self, *_):
        pass

    async def run(self, stop):
        await watch.turned.wait()
        print("a loop that turns goes on", flush=True)
        {end}

def hang():
    threading.Event().wait()

watch = Watch()
processes.STUCK_S_MAX = 4.0
processes.faulthandler = watch
processes.ClusterController = Stuck
access = Access("https://127.0.0.1:9", Static("https://127.0.0.1:9"), "team", "prod")
code = processes.serve_cluster(access, ClusterSettings(), sys.stderr)
print("is watched" if watch.armed else "is watched no more")
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
    assert found.stdout == "a loop that turns goes on\nis watched no more\n"
    assert "most recent call" not in found.stderr
