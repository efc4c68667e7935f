"""Crash matrix: kill -9 of a worker or the driver at the k-th block, a re-run, a reader meanwhile.

    .venv/bin/python tests/perf/crashes.py [BLOCK ...]

Each contender reads ten Parquet files of 6,000 rows, maps every block and writes. A reader polls
the output all the while. Told are the sights of a part of the rows, those that could not be read,
and what is there after the re-run: 60,000 rows with as many ids is right.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mlsched.errors import MlschedError
from mlsched_pipelines import open_dataset

FILES, ROWS = 10, 60_000
ROOT = Path(__file__).parents[2]
BLOCKS = (2, 5, 9)
RUN_S_MAX = 180

HEAD = """
import os, signal, sys
source, out, log, at, victim, name = sys.argv[1:]
driver = os.getpid()

def strike():
    with open(log, "a") as file:
        file.write("x")
    if not int(at) or os.path.getsize(log) < int(at):
        return
    try:
        os.mkdir(log + ".struck")  # once, however many pass the block together
    except FileExistsError:
        return
    os.kill(driver if victim == "driver" else os.getpid(), signal.SIGKILL)
"""
OURS = """
import pyarrow as pa
from mlsched_pipelines import Plan, parquet, run, start_engine

def work(batch):
    strike()
    return batch

with start_engine(name, workers=2) as engine:
    scan = Plan.scan(parquet(f"{source}/*.parquet"))
    plan = scan.map_batches(work, schema=scan.schema, identity="work").write(out)
    run(plan, engine=engine)
"""
RAY = """
import logging, ray, ray.data
os.environ["RAY_AUTH_MODE"] = "disabled"

def work(table):
    strike()
    return table

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
found = ray.data.read_parquet(source, override_num_blocks=10)
found.map_batches(work, batch_format="pyarrow", batch_size=6_000).write_parquet(out)
"""
DASK = """
import dask.dataframe as dd
from distributed import Client, LocalCluster

def work(frame):
    strike()
    return frame

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster):
            found = dd.read_parquet(source, split_row_groups=True, aggregate_files=False)
            found.map_partitions(work, meta=found._meta).to_parquet(out)
"""
CONTENDERS = {
    "mlsched local": ("local", OURS),
    "mlsched dask": ("dask", OURS),
    "mlsched ray": ("ray", OURS),
    "Dask to_parquet": ("", DASK),
    "Ray Data write_parquet": ("", RAY),
}


def write_input(folder: Path) -> None:
    """Ten files of consecutive ids."""
    folder.mkdir()
    size = ROWS // FILES
    for number in range(FILES):
        ids = pa.table({"id": list(range(number * size, (number + 1) * size))})
        pq.write_table(ids, folder / f"part-{number}.parquet")


def look(out: Path, name: str) -> tuple[int, int]:
    """Rows and distinct ids that a reader finds; nothing yet is none.

    Raises:
        Exception: it cannot be read.
    """
    if name.startswith("mlsched"):
        try:
            ids = open_dataset(out).to_table()["id"]
        except MlschedError as error:
            if "no dataset" in error.message:
                return 0, 0
            raise
    else:
        files = sorted(str(path) for path in out.rglob("*.parquet")) if out.is_dir() else []
        if not files:
            return 0, 0
        ids = ds.dataset(files).to_table(columns=["id"])["id"]
    return len(ids), pc.count_distinct(ids).as_py()


class Reader:
    """Polls an output; counts what no reader may see."""

    def __init__(self, out: Path, name: str) -> None:
        self.partial = self.unreadable = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(out, name))
        self._thread.start()

    def _poll(self, out: Path, name: str) -> None:
        while not self._over.wait(0.02):
            try:
                rows, _ = look(out, name)
            except Exception:  # noqa: BLE001 - whatever a reader meets with
                self.unreadable += 1
            else:
                self.partial += rows not in (0, ROWS)

    def close(self) -> None:
        """Stop polling."""
        self._over.set()
        self._thread.join()


def run_once(name: str, folder: Path, out: Path, at: int, victim: str) -> int:
    """One try of a contender; its exit code, minus the signal that ended it."""
    engine, program = CONTENDERS[name]
    path = folder / "program.py"
    path.write_text(HEAD + program)
    log = folder / "blocks"
    log.unlink(missing_ok=True)
    shutil.rmtree(f"{log}.struck", ignore_errors=True)
    words = [str(folder / "in"), str(out), str(log), str(at), victim, engine or "-"]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'pipelines'}",
        "RAY_AUTH_MODE": "disabled",
    }
    found = subprocess.run(
        [sys.executable, str(path), *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=RUN_S_MAX,
        check=False,
    )
    return found.returncode


def measure(name: str, victim: str, at: int, folder: Path) -> dict[str, object]:
    """A try that is struck, then one that is not."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    reader = Reader(out, name)
    try:
        codes = [run_once(name, folder, out, strike, victim) for strike in (at, 0)]
    finally:
        reader.close()
    rows, ids = look(out, name)
    return {
        "contender": name,
        "killed": victim,
        "block": at,
        "exit_codes": codes,
        "partial_sights": reader.partial,
        "unreadable_sights": reader.unreadable,
        "rows": rows,
        "ids": ids,
        "right": (rows, ids) == (ROWS, ROWS) and not reader.partial and not reader.unreadable,
    }


def main(blocks: list[int]) -> int:
    """Run the matrix; one line a case."""
    folder = Path(tempfile.mkdtemp(prefix="mlsched-crashes-"))
    cases: list[Callable[[], dict[str, object]]] = []
    try:
        write_input(folder / "in")
        for name in CONTENDERS:
            for victim in ("driver", "worker"):
                if (name, victim) == ("mlsched local", "worker"):
                    continue  # its workers are threads of the driver
                cases += [lambda n=name, v=victim, k=at: measure(n, v, k, folder) for at in blocks]
        for case in cases:
            print(json.dumps(case()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]] or list(BLOCKS)))
