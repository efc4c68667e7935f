"""Scan, filter, group-by and sort of eight million rows: our engines beside those of others.

    .venv/bin/python tests/perf/engines.py [ROUNDS]

Contenders take turns, each in a process of its own for what it keeps; answers are compared before
times are. Dask and Ray keep their clusters over the rounds, as a notebook would.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mlsched_pipelines import Call, Engine, Plan, open_dataset, parquet, run
from mlsched_pipelines.starting import start_engine

ROWS, FILES = 8_000_000, 16
WORKERS = 2
KEYS = {"k1": 100, "k2": 100_000}
Answer = dict[int, tuple[float, float, int]]


def write_input(folder: Path) -> None:
    """Sixteen zstd files of nine columns, of which a query reads three; about 330 MB."""
    rng = np.random.default_rng(0)
    size = ROWS // FILES
    zones = np.array([f"zone-{at}" for at in range(50)])
    for number in range(FILES):
        columns = {key: rng.integers(0, values, size).astype("i4") for key, values in KEYS.items()}
        data = pa.table(
            columns
            | {
                "id": np.arange(number * size, (number + 1) * size),
                "v1": rng.normal(size=size),
                "v2": rng.random(size).astype("f4"),
                "day": pa.array(rng.integers(0, 365, size).astype("i4")).cast(pa.date32()),
                "zone": zones[rng.integers(0, 50, size)],
                "p1": rng.random(size),
                "p2": rng.random(size),
            }
        )
        path = folder / f"part-{number:02d}.parquet"
        pq.write_table(data, path, compression="zstd", row_group_size=125_000)


def answer_of(data: pa.Table, key: str) -> Answer:
    """A result by key, whatever order its rows have."""
    columns = (data[name].to_pylist() for name in (key, "s", "m", "n"))
    return {k: (s, m, n) for k, s, m, n in zip(*columns, strict=True)}


def same(one: Answer, other: Answer) -> bool:
    """Whether two engines agree up to the rounding of their sums."""
    if one.keys() != other.keys():
        return False
    pairs = ((one[key], other[key]) for key in one)
    return all(np.allclose(mine, theirs, rtol=1e-6, atol=1e-9) for mine, theirs in pairs)


def ask_pyarrow(folder: Path, key: str) -> Answer:
    """Arrow's own scan and group-by, on all cores."""
    found = ds.dataset(folder).to_table(columns=[key, "v1", "v2"], filter=pc.field("v2") > 0.25)
    wide = found.set_column(2, "v2", found["v2"].cast(pa.float64()))
    made = wide.group_by(key).aggregate([("v1", "sum"), ("v2", "mean"), ([], "count_all")])
    return answer_of(made.rename_columns([key, "s", "m", "n"]), key)


def ask_us(folder: Path, key: str, engine: Engine) -> Answer:
    """A run of ours, from the plan to the published dataset."""
    schema = pa.schema([(key, pa.int32()), ("v1", pa.float64()), ("v2", pa.float32())])
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        source = parquet(f"{folder}/*.parquet", schema, fingerprint="stat")
        columns = {"s": ("v1", "sum"), "m": ("v2", "mean"), "n": "count"}
        plan = Plan.scan(source).filter(pc.field("v2") > 0.25).group_by(key, columns)
        run(plan.write(Path(out) / "dataset"), engine=engine)
        return answer_of(open_dataset(Path(out) / "dataset").to_table(), key)


def ask_dask(folder: Path, key: str) -> Answer:
    """dask.dataframe on the client that is current."""
    import dask.dataframe as dd

    frame = dd.read_parquet(str(folder), columns=[key, "v1", "v2"])
    kept = frame[frame["v2"] > 0.25]
    kept["v2"] = kept["v2"].astype("f8")
    made = kept.groupby(key).agg({"v1": ["sum", "count"], "v2": "mean"}).compute()
    made.columns = ["s", "n", "m"]
    return answer_of(pa.Table.from_pandas(made.reset_index()), key)


def ask_ray(folder: Path, key: str) -> Answer:
    """Ray Data on the cluster that is connected."""
    import ray.data
    from ray.data.aggregate import Count, Mean, Sum
    from ray.data.expressions import col

    found = ray.data.read_parquet(str(folder)).select_columns([key, "v1", "v2"])
    grouped = found.filter(expr=col("v2") > 0.25).groupby(key)
    made = grouped.aggregate(
        Sum("v1", alias_name="s"), Mean("v2", alias_name="m"), Count(alias_name="n")
    )
    return answer_of(pa.Table.from_pandas(made.to_pandas()), key)


def sort_pyarrow(folder: Path, out: Path) -> pa.ChunkedArray:
    """Arrow's own scan and sort in memory, and one file."""
    found = ds.dataset(folder).to_table()
    made = found.take(pc.sort_indices(found, sort_keys=[("v1", "ascending")]))
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, made.schema) as writer:
        writer.write_table(made)
    return made["id"]


def sort_us(folder: Path, out: Path, engine: Engine) -> pa.ChunkedArray:
    """A run of ours, from the plan to the published dataset."""
    scan = Plan.scan(parquet(f"{folder}/*.parquet", fingerprint="stat"))
    run(scan.sort("v1").write(out), engine=engine)
    return open_dataset(out).to_table()["id"]


def nothing(shared: Any, argument: Any) -> int:
    """An empty task."""
    return os.getpid()


def measure_start(name: str) -> dict[str, float]:
    """From nothing to the first task done, and the rate of empty tasks after it."""
    begun = time.perf_counter()
    with start_engine(name, workers=WORKERS) as engine:
        ref = engine.put_ref(None)
        engine.submit(Call("first", nothing, ref, None))
        engine.wait_any()
        first_s = time.perf_counter() - begun
        begun = time.perf_counter()
        count = 500
        for number in range(count):
            engine.submit(Call(f"t{number}", nothing, ref, None))
        ended = 0
        while ended < count:
            ended += len(engine.wait_any())
        calls_s = count / (time.perf_counter() - begun)
        closing = time.perf_counter()
    return {
        "first_task_s": round(first_s, 2),
        "calls_per_s": round(calls_s),
        "close_s": round(time.perf_counter() - closing, 2),
    }


def compare(
    group: str, folder: Path, contenders: dict[str, Callable[[str], Answer]], rounds: int
) -> None:
    """Let contenders take turns; one line a query with the best and the median of each."""
    for key in KEYS:
        times: dict[str, list[float]] = {name: [] for name in contenders}
        expected = ask_pyarrow(folder, key)
        for _ in range(rounds):
            for name, ask in contenders.items():
                begun = time.perf_counter()
                found = ask(key)
                times[name].append(time.perf_counter() - begun)
                if not same(found, expected):
                    raise SystemExit(f"{name}: another answer for {key} than pyarrow's")
        tell({"group": group, "query": key}, times)


def compare_sorts(folder: Path, engine: Engine, rounds: int) -> None:
    """All nine columns in the order of one; one line with the best and the median of each."""
    times: dict[str, list[float]] = {"pyarrow": [], "mlsched local": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder.parent) as out:
            begun = time.perf_counter()
            expected = sort_pyarrow(folder, Path(out) / "file")
            between = time.perf_counter()
            found = sort_us(folder, Path(out) / "dataset", engine)
            times["mlsched local"].append(time.perf_counter() - between)
            times["pyarrow"].append(between - begun)
            if not found.combine_chunks().equals(expected.combine_chunks()):
                raise SystemExit("mlsched local: another order than pyarrow's")
    tell({"group": "local", "query": "sort"}, times)


def tell(what: dict[str, str], times: dict[str, list[float]]) -> None:
    """One line of results."""
    told = {
        name: {"best_s": round(min(found), 3), "median_s": round(statistics.median(found), 3)}
        for name, found in times.items()
    }
    print(json.dumps({**what, **told}), flush=True)


def main(rounds: int) -> int:
    """Run all groups."""
    folder = Path(tempfile.mkdtemp(prefix="mlsched-bench-")) / "in"
    folder.mkdir()
    try:
        write_input(folder)
        for name in ("local", "dask", "ray"):
            found = [measure_start(name) for _ in range(3)]
            print(json.dumps({"start": name, "runs": found}), flush=True)
        with start_engine("local", workers=WORKERS) as engine:
            us = {"mlsched local": lambda key: ask_us(folder, key, engine)}
            compare("local", folder, {"pyarrow": lambda k: ask_pyarrow(folder, k), **us}, rounds)
            compare_sorts(folder, engine, rounds)
        with ExitStack() as stack:
            _beside_dask(stack, folder, rounds)
        with ExitStack() as stack:
            _beside_ray(stack, folder, rounds)
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return 0


def _beside_dask(stack: ExitStack, folder: Path, rounds: int) -> None:
    from distributed import Client, LocalCluster

    engine = stack.enter_context(start_engine("dask", workers=WORKERS))
    cluster = stack.enter_context(
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    )
    stack.enter_context(Client(cluster))
    contenders = {
        "mlsched dask": lambda key: ask_us(folder, key, engine),
        "dask.dataframe": lambda key: ask_dask(folder, key),
    }
    compare("dask", folder, contenders, rounds)


def _beside_ray(stack: ExitStack, folder: Path, rounds: int) -> None:
    import logging

    import ray

    engine = stack.enter_context(start_engine("ray", workers=WORKERS))
    os.environ["RAY_AUTH_MODE"] = "disabled"  # else Ray leaves a token in the home directory
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    stack.callback(ray.shutdown)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    contenders = {
        "mlsched ray": lambda key: ask_us(folder, key, engine),
        "Ray Data": lambda key: ask_ray(folder, key),
    }
    compare("ray", folder, contenders, rounds)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 5))
