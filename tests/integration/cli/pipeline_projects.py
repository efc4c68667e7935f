"""A directory with a pipeline, and a run that is held in the middle."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

TIMEOUT_S = 60

HEAD = """
from __future__ import annotations
import os, time
import pyarrow as pa
import pyarrow.compute as pc
from mlsched_pipelines import Check, Contract, Plan, csv

SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.float64())])

def scan(split_bytes=4000):
    return Plan.scan(csv("in.csv", SCHEMA, split_bytes=split_bytes))
"""

DAILY = """
import neighbour

def scale(batch):
    return {"id": batch.column("id"), "value": neighbour.double(batch.column("value"))}

def daily(interval: str = "", rows_min: int = 0, suffix: str = "") -> Plan:
    kept = scan().filter(pc.field("id") >= rows_min)
    return kept.map_batches(scale, schema=SCHEMA).write("daily" + suffix)
"""

FAILING = """
def check(batch):
    return inner(batch)

def inner(batch):
    raise ValueError("no such ride: \\x1b[2J")

failing = scan().map_batches(check, schema=SCHEMA).write("failing")
"""

GATED = """
def wait(batch):
    open("begun", "w").close()
    while batch.column("id")[0].as_py() >= 100 and not os.path.exists("gate"):
        time.sleep(0.02)
    return batch

gated = scan(1500).map_batches(wait, schema=SCHEMA).write("gated")
"""


class Project:
    """A directory with a pipeline, and a state directory of its own."""

    def __init__(self, home, path: Path) -> None:
        self.path = path / "project"
        self.path.mkdir()
        self.home = home
        self.env = {**home.env, "XDG_STATE_HOME": str(path / "state")}
        self.records = path / "state" / "mlsched" / "pipelines"
        lines = [f"{i},{i / 8}" for i in range(1000)]
        (self.path / "in.csv").write_text("id,value\n" + "\n".join(lines) + "\n")
        (self.path / "neighbour.py").write_text(
            "import pyarrow.compute as pc\n\ndef double(x):\n    return pc.multiply(x, 2.0)\n"
        )

    def write(self, text: str, name: str = "rides.py") -> None:
        (self.path / name).write_text(HEAD + text)

    def run(self, *words: str, cwd: Path | None = None, **env: str):
        return subprocess.run(
            self.home.command("pipeline", *words), env={**self.env, **env},
            cwd=cwd or self.path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    def json(self, *words: str, **env: str):
        ended = self.run(*words, "-o", "json", **env)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.home.command("pipeline", *words), env=self.env, cwd=self.path,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture
def project(home, tmp_path: Path) -> Project:
    return Project(home, tmp_path)


@pytest.fixture
def gated(project, until):
    """A run of which the first tasks are done and another one waits for the file ``gate``."""
    project.write(GATED)
    started = project.start("run", "rides.py", "--workers", "1")

    def has_finished_tasks() -> bool:
        done = list((project.path / "gated").glob("data/*/*.done"))
        return bool(done) and (project.path / "begun").exists()

    until(has_finished_tasks)
    yield started
    with contextlib.suppress(ProcessLookupError):
        started.kill()
    started.communicate()
