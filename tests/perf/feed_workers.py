"""One loader in a process of its own: reads ``go`` lines, runs an epoch for each, answers in JSON.

    feed_workers.py LOADER FOLDER

Needs what its loader needs and nothing of the tests, since LitData runs under another Python.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES, TOKENS, BATCH = 60_000, 2048, 64
WINDOW, BLOCK_ROWS = 8, 512
"""Eight blocks of 512 neighbouring samples (4 MiB each) are mixed at a time."""

Epoch = Callable[[int], Iterator[Any]]


def make_tokens() -> np.ndarray[Any, np.dtype[np.int32]]:
    """The samples: int32 tokens, 8 KiB each."""
    return np.random.default_rng(0).integers(0, 50_000, (SAMPLES, TOKENS), dtype=np.int32)


def plain_loop(folder: Path) -> Epoch:
    """What one would write by hand over the same mapped shards: same window, same copies."""
    import pyarrow as pa
    import pyarrow.ipc

    blocks = []
    for path in sorted(folder.glob("data/*/*.arrow")):
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        for number in range(reader.num_record_batches):
            column = reader.get_batch(number).column(0)
            blocks.append(column.values.to_numpy().reshape(-1, TOKENS))

    def epoch(seed: int) -> Iterator[Any]:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(blocks))
        buffer = np.empty((WINDOW * BLOCK_ROWS, TOKENS), np.int32)
        for first in range(0, len(order), WINDOW):
            parts = [blocks[at] for at in order[first : first + WINDOW]]
            rows = sum(len(part) for part in parts)
            np.concatenate(parts, out=buffer[:rows])
            inside = rng.permutation(rows)
            for start in range(0, rows, BATCH):
                yield buffer[inside[start : start + BATCH]]

    return epoch


def direct_loop(folder: Path) -> Epoch:
    """The least that a loader can do: one uncompressed file, one gather a batch out of the map."""
    path = folder / "tokens.bin"
    if not path.exists():
        make_tokens().tofile(path)
    data = np.memmap(path, np.int32, "r").reshape(SAMPLES, TOKENS)

    def epoch(seed: int) -> Iterator[Any]:
        rng = np.random.default_rng(seed)
        blocks = rng.permutation(SAMPLES // BLOCK_ROWS)
        for first in range(0, len(blocks), WINDOW):
            starts = blocks[first : first + WINDOW] * BLOCK_ROWS
            rows = (starts[:, None] + np.arange(BLOCK_ROWS)).reshape(-1)
            rng.shuffle(rows)
            for start in range(0, len(rows), BATCH):
                yield data[rows[start : start + BATCH]]

    return epoch


def mlsched_feed(folder: Path) -> Epoch:
    """The feed, window shuffle."""
    from mlsched_pipelines import Feed, open_dataset

    feed = Feed(open_dataset(folder), BATCH, window=WINDOW, block_rows=BLOCK_ROWS, last="short")
    batches = feed.batches(epochs=1 << 20)
    return lambda _: (batch.columns["tokens"] for batch in islice(batches, feed.steps_per_epoch))


def litdata(folder: Path, workers: int | None) -> Epoch:
    """LitData's own format, shuffled, written on the first use; workers None: no data loader."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    out = folder / "litdata"
    if not (out / "index.json").exists():
        tokens = make_tokens()
        optimize(
            fn=lambda index: tokens[index],
            inputs=list(range(SAMPLES)),
            output_dir=str(out),
            chunk_bytes="64MB",
            num_workers=1,
            start_method="fork",
        )
    dataset = StreamingDataset(str(out), shuffle=True)
    if workers is not None:
        loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers)
        return lambda _: iter(loader)

    def epoch(_: int) -> Iterator[Any]:
        part = []
        for sample in dataset:
            part.append(sample)
            if len(part) == BATCH:
                yield np.stack(part)
                part = []
        yield np.stack(part)

    return epoch


LOADERS: dict[str, Callable[[Path], Epoch]] = {
    "plain": plain_loop,
    "direct": direct_loop,
    "feed": mlsched_feed,
    "litdata-stack": lambda folder: litdata(folder, None),
    "litdata-loader-0": lambda folder: litdata(folder, 0),
    "litdata-loader-2": lambda folder: litdata(folder, 2),
}


def cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    """Answer each line with one epoch's figures."""
    if "litdata" in sys.argv[1]:
        import logging

        logging.disable(logging.INFO)
    answers = sys.stdout
    sys.stdout = sys.stderr
    epoch = LOADERS[sys.argv[1]](Path(sys.argv[2]))
    answers.write("ready\n")
    answers.flush()
    for number, _ in enumerate(sys.stdin):
        cpu, start, first, samples, check = cpu_s(), time.perf_counter(), 0.0, 0, 0
        for batch in epoch(number):
            first = first or time.perf_counter() - start
            samples += len(batch)
            check += int(batch[0][0])
        wall = time.perf_counter() - start
        told = {
            "samples": samples,
            "wall_s": wall,
            "cpu_s": cpu_s() - cpu,
            "first_batch_s": first,
            "check": check,
        }
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
