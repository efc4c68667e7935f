"""Power cuts: what was acknowledged is there, although all that was not synced is lost or torn.

A kill of the process does not test this, since the page cache outlives it. The SQLite of the store
runs on a file system layer that holds writes back until they are synced; a cut lets each one that
is held back reach the disk or not, whole or up to a sector.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from mlsched.adapters.store import rows
from mlsched.adapters.store.schema import open_database
from mlsched.adapters.store.values import Submission
from mlsched.adapters.store.writers import Writer
from mlsched.model.jobs import Job, JobState
from mlsched.testing.builders import job

SECTOR = 512
SEEDS = range(40)


class HeldFile(apsw.VFSFile):
    """A file whose writes and truncations wait for a sync."""

    def __init__(self, layer: HoldingLayer, name: Any, flags: list[int]) -> None:
        self.held: list[tuple[bytes, int] | int] = []
        super().__init__("unix", name, flags)
        layer.files.append(self)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.held.append((bytes(data), offset))

    def xTruncate(self, size: int) -> None:
        self.held.append(size)

    def xSync(self, flags: int) -> None:
        for change in self.held:
            if isinstance(change, int):
                super().xTruncate(change)
            else:
                super().xWrite(*change)
        self.held.clear()
        super().xSync(flags)

    def seen(self) -> bytes:
        """What the process sees: the disk with the held changes on top."""
        size = super().xFileSize()
        content = bytearray(super().xRead(size, 0)) if size else bytearray()
        for change in self.held:
            if isinstance(change, int):
                del content[change:]
            else:
                data, offset = change
                content.extend(b"\0" * (offset + len(data) - len(content)))
                content[offset : offset + len(data)] = data
        return bytes(content)

    def xRead(self, amount: int, offset: int) -> bytes:
        return self.seen()[offset : offset + amount] if self.held else super().xRead(amount, offset)

    def xFileSize(self) -> int:
        return len(self.seen()) if self.held else super().xFileSize()

    def cut(self, rng: random.Random) -> None:
        """The power goes: each held write reaches the disk or not, perhaps in part."""
        for change in self.held:
            if isinstance(change, int) or rng.random() < 0.5:
                continue
            data, offset = change
            whole = len(data) < SECTOR
            size = len(data) if whole else SECTOR * rng.randrange(len(data) // SECTOR + 1)
            if size:
                super().xWrite(data[:size], offset)
        self.held.clear()


class HoldingLayer(apsw.VFS):
    """The layer below SQLite; the default one while a test runs."""

    def __init__(self) -> None:
        self.files: list[HeldFile] = []
        super().__init__("holding", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> HeldFile:
        return HeldFile(self, name, flags)


def _keep_index_in_memory(connection: apsw.Connection) -> None:
    connection.pragma("locking_mode", "exclusive")


@pytest.fixture
def layer() -> Iterator[HoldingLayer]:
    made = HoldingLayer()
    apsw.connection_hooks.append(_keep_index_in_memory)
    yield made
    apsw.connection_hooks.remove(_keep_index_in_memory)
    made.unregister()


def _accept(submission: Submission, connection: apsw.Connection) -> Any:
    return rows.accept(connection, submission)


def _save(ended: Job, connection: apsw.Connection) -> None:
    rows.save(connection, [ended])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_acknowledged_job_and_no_acknowledged_state_is_lost(
    seed: int, layer: HoldingLayer, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    live, after = tmp_path / "live", tmp_path / "after"
    live.mkdir()
    writer = Writer(live / "state.db")
    acknowledged: dict[str, JobState] = {}
    for number in range(rng.randrange(1, 40)):
        made = replace(job(f"{number:08x}", 0), name="")
        environment = {"X": "x" * rng.randrange(3_000), "N": str(number)}
        submission = Submission((made,), "", "train", environment)
        accepted = writer.submit(partial(_accept, submission)).result()
        acknowledged[made.id] = JobState.PENDING
        if rng.random() < 0.5:
            ended = replace(accepted[0][0], state=JobState.SUCCEEDED, ended_at_ms=number)
            writer.submit(partial(_save, ended)).result()
            acknowledged[made.id] = JobState.SUCCEEDED
    for file in layer.files:
        file.cut(rng)
    shutil.copytree(live, after)
    writer.close()

    recovered = open_database(after / "state.db")
    assert recovered.pragma("integrity_check") == "ok"
    found = {one: rows.find(recovered, one)[0].state for one in acknowledged}
    assert found == acknowledged
    recovered.close()


def test_the_cut_finds_a_store_that_does_not_sync(layer: HoldingLayer, tmp_path: Path) -> None:
    connection = open_database(tmp_path / "state.db")
    connection.pragma("synchronous", "off")
    submission = Submission((replace(job("a", 0), name=""),), "", "train", {})
    with connection:
        rows.accept(connection, submission)
    for file in layer.files:
        file.cut(random.Random(1))
    after = tmp_path / "after"
    shutil.copytree(tmp_path, after, ignore=shutil.ignore_patterns("after"))
    connection.close()
    recovered = open_database(after / "state.db")
    assert rows.find(recovered, "a") == []
    recovered.close()
