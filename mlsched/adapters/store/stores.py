"""The store of one machine: jobs, arrays, environments, schedules and their runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from mlsched.adapters.store import rows
from mlsched.adapters.store.schema import open_database
from mlsched.adapters.store.values import Accepted, Schedule, Submission
from mlsched.adapters.store.writers import Writer
from mlsched.errors import UnreachableError
from mlsched.model.jobs import Job, JobState

T = TypeVar("T")


class Store:
    """One SQLite file behind an asynchronous door.

    Args:
        path: The database file; created and migrated when needed.

    Raises:
        ConfigError: not our file, damaged, newer than this program, or SQLite is too old.
        StoreFullError: no room (from every writing method too).
    """

    def __init__(self, path: Path) -> None:
        self._writer = Writer(path)
        self._reader = open_database(path, read_only=True)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    async def accept(self, submission: Submission) -> Accepted:
        """Make a submission durable; names and order numbers are given here.

        The same idempotency key gives the jobs of the first call, for ever.
        """
        found, created = await self._write(lambda c: rows.accept(c, submission))
        return Accepted(tuple(found), created)

    async def by_key(self, key: str) -> list[Job]:
        """What a submission with this idempotency key made; empty when there was none."""
        return await self._read(lambda c: rows.by_key(c, key))

    async def save(self, jobs: Iterable[Job]) -> None:
        """Make new versions of known jobs durable, all or none."""
        batch = list(jobs)
        await self._write(lambda c: rows.save(c, batch))

    async def open_jobs(self) -> list[Job]:
        """Jobs that have not ended, in order of acceptance."""
        return await self._read(rows.open_jobs)

    async def find(self, text: str) -> list[Job]:
        """Jobs that a name, an id, an array's name or a unique beginning of an id stands for.

        An array gives all its elements in index order; nothing found gives an empty list.
        """
        return await self._read(lambda c: rows.find(c, text))

    async def ended_jobs(self, limit: int) -> list[Job]:
        """The jobs that ended last, newest first."""
        return await self._read(lambda c: rows.ended_jobs(c, limit))

    async def final_states(self, ids: Iterable[str]) -> dict[str, JobState]:
        """States of ended jobs and of wholly ended arrays, by id; the rest is left out."""
        wanted = list(ids)
        return await self._read(lambda c: rows.final_states(c, wanted))

    async def worst_ended(self, array_ids: Iterable[str]) -> dict[str, JobState]:
        """The worst state among the ended elements of each array that has any."""
        wanted = list(array_ids)
        return await self._read(lambda c: rows.worst_ended(c, wanted))

    async def array_counts(self, array_id: str) -> dict[str, int]:
        """How many elements of an array are in each state, as last made durable."""
        return await self._read(lambda c: rows.array_counts(c, array_id))

    async def environment(self, environment_id: str) -> dict[str, str]:
        """The variables of a stored environment."""
        return await self._read(lambda c: rows.environment(c, environment_id))

    async def put_schedule(self, schedule: Schedule) -> Schedule:
        """Add or replace a schedule; a replaced one keeps its id and its last tick."""
        return await self._write(lambda c: _put_schedule(c, schedule))

    async def schedules(self) -> list[Schedule]:
        """All schedules by name."""
        return await self._read(_schedules)

    async def set_last_tick(self, schedule_id: str, tick_ms: int) -> None:
        """Note that all ticks up to this one were dealt with; never goes back."""
        sql = "UPDATE schedules SET last_tick_ms = max(last_tick_ms, ?) WHERE id = ?"
        await self._write(lambda c: c.execute(sql, (tick_ms, schedule_id)) and None)

    async def put_back_last_tick(self, schedule: Schedule, tick_ms: int) -> None:
        """Count ticks from an earlier instant on, unless others were dealt with meanwhile."""
        sql = "UPDATE schedules SET last_tick_ms = ? WHERE id = ? AND last_tick_ms = ?"
        values = (tick_ms, schedule.id, schedule.last_tick_ms)
        await self._write(lambda c: c.execute(sql, values) and None)

    async def has_run(self, run_id: str) -> bool:
        """Whether this tick of a schedule was fired already."""
        sql = "SELECT 1 FROM runs WHERE id = ?"
        return await self._read(lambda c: c.execute(sql, (run_id,)).fetchone() is not None)

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        await asyncio.to_thread(self._writer.close)
        self._reading.shutdown()
        self._reader.close()

    async def _write(self, write: Callable[[apsw.Connection], T]) -> T:
        result: T = await asyncio.wrap_future(self._writer.submit(write))
        return result

    async def _read(self, read: Callable[[apsw.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reading, read, self._reader)
        except apsw.Error as error:
            raise UnreachableError(f"the database did not answer: {error}.") from error


def _put_schedule(connection: apsw.Connection, schedule: Schedule) -> Schedule:
    connection.execute(
        "INSERT INTO schedules (name, id, document, last_tick_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET document = excluded.document,"
        " last_tick_ms = CASE WHEN document = excluded.document THEN last_tick_ms"
        " ELSE max(last_tick_ms, excluded.last_tick_ms) END",
        (schedule.name, schedule.id, msgspec.json.encode(schedule.document), schedule.last_tick_ms),
    )
    return next(found for found in _schedules(connection) if found.name == schedule.name)


def _schedules(connection: apsw.Connection) -> list[Schedule]:
    sql = "SELECT name, id, document, last_tick_ms FROM schedules ORDER BY name"
    return [
        Schedule(name, id_, msgspec.json.decode(document), tick)
        for name, id_, document, tick in connection.execute(sql)
    ]
