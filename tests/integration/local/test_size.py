"""A supervisor stays small: it is there once for every job that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mlsched.adapters.local import supervisor

HEAVY = {"json", "re", "typing", "enum", "pathlib", "subprocess", "logging", "asyncio", "msgspec"}
RSS_KIB_MAX = 12_000


def test_it_imports_nothing_heavy(tmp_path):
    """Each of these would cost more than all of the supervisor's own code."""
    program = Path(supervisor.__file__).with_name("__main__.py")
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-X", "importtime", str(program)]
    found = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "nothing was started" in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "supervisor.runs" in imported
    assert imported & HEAVY == set()
    assert not any(name.startswith(("mlsched", "site")) for name in imported)


def test_it_needs_little_memory(bench):
    job = bench.job("sleep", "100")

    async def work(run):
        await run.node.launch(job)
        await run.started(job)
        text = Path(f"/proc/{bench.supervisor(job)}/status").read_text()
        await run.node.stop(job.id, 1, 0)
        await run.ended(job)
        return int(text.partition("VmRSS:")[2].split()[0])

    assert bench.do(work) < RSS_KIB_MAX
