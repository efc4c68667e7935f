"""The real database: names, keys, group commit, versions, power cuts of the process, full disks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from mlsched.adapters.store import Store
from mlsched.adapters.store.schema import MIGRATIONS
from mlsched.adapters.store.values import Schedule, Submission
from mlsched.errors import ConfigError, ConflictError, StoreFullError, UnreachableError
from mlsched.model.jobs import ArrayMembership, Job, JobState
from mlsched.testing.builders import job


def submission(identifier: str, name: str = "", base: str = "train", **more: object) -> Submission:
    made = replace(job(identifier, 0), **{"name": "", **more.pop("job", {})})  # type: ignore[dict-item]
    return Submission((made,), name, base, {"HOME": "/home/a"}, **more)  # type: ignore[arg-type]


def with_store(path: Path, scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store(path / "state.db")
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_names_are_readable_and_unique(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        names = [
            (await store.accept(submission(f"{n}", name))).jobs[0].name
            for n, name in enumerate(["", "", "sweep", "sweep", "train-3", ""])
        ]
        assert names == ["train-1", "train-2", "sweep", "sweep-2", "train-3", "train-4"]

    with_store(tmp_path, scenario)


def test_the_same_key_gives_the_same_job_for_ever(tmp_path: Path) -> None:
    async def keyed(store: Store) -> None:
        one = submission("a", job={"idempotency_key": "k"}, idempotency_key="k")
        two = submission("b", job={"idempotency_key": "k"}, idempotency_key="k")
        first, second = await asyncio.gather(store.accept(one), store.accept(two))
        assert (first.created, second.created) == (True, False)
        assert second.jobs == first.jobs

    with_store(tmp_path, keyed)


def test_an_array_is_accepted_whole_and_found_by_its_name(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        elements = tuple(
            replace(job(f"e{i}", 0), name="", array=ArrayMembership("arr", "", i, 3))
            for i in range(3)
        )
        accepted = await store.accept(Submission(elements, "sweep", "x", {}, "key"))
        assert [j.name for j in accepted.jobs] == ["sweep[0]", "sweep[1]", "sweep[2]"]
        assert [j.id for j in await store.find("sweep")] == ["e0", "e1", "e2"]
        assert [j.id for j in await store.find("sweep[1]")] == ["e1"]
        assert await store.array_counts("arr") == {"PENDING": 3}
        ended = replace(accepted.jobs[0], state=JobState.FAILED, ended_at_ms=1)
        await store.save([ended])
        assert await store.final_states(["arr", "e0", "e1"]) == {"e0": JobState.FAILED}
        assert await store.worst_ended(["arr"]) == {"arr": JobState.FAILED}

    with_store(tmp_path, scenario)


def test_saving_is_all_or_none(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        known = (await store.accept(submission("a"))).jobs[0]
        moved = replace(known, state=JobState.RUNNING)
        with pytest.raises(ConflictError, match="not in the store"):
            await store.save([moved, job("stranger", 9)])
        assert (await store.find("a"))[0].state is JobState.PENDING

    with_store(tmp_path, scenario)


def test_one_bad_write_of_a_group_fails_alone(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        writes = [store.accept(submission(f"{n}")) for n in range(50)]
        results = await asyncio.gather(*writes, store.save([job("no", 1)]), return_exceptions=True)
        assert isinstance(results[-1], ConflictError)
        assert len(await store.open_jobs()) == 50

    with_store(tmp_path, scenario)


def test_an_id_may_be_cut_short_as_long_as_it_is_unique(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        for identifier in ("abcdef1", "abcdef2", "12345"):
            await store.accept(submission(identifier))
        assert [j.id for j in await store.find("1234")] == ["12345"]
        assert await store.find("abcdef") == []
        assert await store.find("123") == []
        assert await store.find("x' OR 1=1 --") == []

    with_store(tmp_path, scenario)


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    newer = apsw.Connection(str(path))
    newer.pragma("user_version", len(MIGRATIONS) + 1)
    newer.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="schema version"):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, but somebody's notes\n" * 100)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="damaged or not a database"):
        Store(path)
    assert path.read_bytes() == before


def test_a_replaced_schedule_keeps_its_id_and_has_no_ticks_of_before(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        first = await store.put_schedule(Schedule("nightly", "id-1", {"a": 1}, 100))
        await store.set_last_tick("id-1", 500)
        await store.set_last_tick("id-1", 300)
        same = await store.put_schedule(Schedule("nightly", "id-2", {"a": 1}, 900))
        assert (first.id, same.id, same.last_tick_ms) == ("id-1", "id-1", 500)
        again = await store.put_schedule(Schedule("nightly", "id-2", {"a": 2}, 900))
        assert (again.id, again.last_tick_ms) == ("id-1", 900)
        assert again.document == {"a": 2}

    with_store(tmp_path, scenario)


ACKNOWLEDGE_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from mlsched.adapters.store import Store
from mlsched.adapters.store.values import Submission
from mlsched.testing.builders import job
async def main():
    store = Store(Path(sys.argv[1]))
    number = len(await store.open_jobs())
    while True:
        jobs = [store.accept(Submission((job(f"{number + n}", 0),), "", "t", {})) for n in range(5)]
        for accepted in await asyncio.gather(*jobs):
            print(accepted.jobs[0].id, flush=True)
        number += 5
asyncio.run(main())
"""


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", ACKNOWLEDGE_FOR_EVER, str(path)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(23)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        whole = {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}

        async def check(store: Store, whole: set[str] = whole) -> None:
            assert whole <= {job.id for job in await store.open_jobs()}

        with_store(tmp_path, check)


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_refuses_clearly_loses_nothing_and_recovers(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:

        async def scenario(store: Store) -> None:
            accepted = 0

            async def fill() -> None:
                nonlocal accepted
                while True:
                    made = submission(f"{accepted}")
                    big = {"BIG": "x" * 20_000, "N": f"{accepted}"}
                    await store.accept(replace(made, environment=big))
                    accepted += 1

            with pytest.raises(StoreFullError, match="full"):
                await fill()
            assert accepted > 10
            assert len(await store.open_jobs()) == accepted
            subprocess.run(["mount", "-o", "remount,size=8m", tmp_path], check=True)
            await store.accept(submission("after"))
            assert len(await store.open_jobs()) == accepted + 1

        with_store(tmp_path, scenario)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_environment_of_a_shell_is_stored_once(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        jobs: list[Job] = [(await store.accept(submission(f"{n}"))).jobs[0] for n in range(3)]
        assert len({j.environment_id for j in jobs}) == 1
        assert await store.environment(jobs[0].environment_id) == {"HOME": "/home/a"}

    with_store(tmp_path, scenario)


def test_a_database_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    theirs = apsw.Connection(str(path))
    theirs.execute("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not a database of mlsched"):
        Store(path)
    assert path.read_bytes() == before


def test_a_record_that_cannot_be_read_is_told_by_its_job_and_destroys_nothing(
    tmp_path: Path,
) -> None:
    async def scenario(store: Store) -> None:
        await store.accept(submission("a"))
        await store.accept(submission("b", job={"idempotency_key": "k"}, idempotency_key="k"))
        other = apsw.Connection(str(tmp_path / "state.db"))
        other.set_busy_timeout(5000)
        other.execute("UPDATE jobs SET record = x'7b' WHERE id = 'b'")
        other.close()
        with pytest.raises(ConfigError, match="train-2"):
            await store.open_jobs()
        with pytest.raises(ConfigError, match="train-2"):
            await store.accept(submission("c", idempotency_key="k"))
        assert [j.id for j in await store.find("a")] == ["a"]

    with_store(tmp_path, scenario)


def test_a_read_that_the_database_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        other = apsw.Connection(str(tmp_path / "state.db"))
        other.set_busy_timeout(5000)
        other.execute("DROP TABLE runs")
        other.close()
        with pytest.raises(UnreachableError, match="did not answer"):
            await store.has_run("r")

    with_store(tmp_path, scenario)
