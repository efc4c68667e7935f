"""The freshest version of each job: of the controller, of what waits to be saved, of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set

from mlsched.adapters.store import Store
from mlsched.errors import NotFoundError, StoreFullError, TemporaryError
from mlsched.model.jobs import Job, JobState
from mlsched.model.reasons import Reason
from mlsched.runtime.driver import Driver
from mlsched.server.submissions import not_found
from mlsched.server.views import JsonObject, array_view, count_states, job_view

ENDED_SHOWN_MAX = 1000
"""Ended jobs in one answer, unless more are asked for."""

SAVE_S_MAX = 10.0
"""How long a client waits for the record of what it asked for."""


class Records:
    """Reads over the driver and the store as one."""

    def __init__(self, driver: Driver, store: Store) -> None:
        self._driver = driver
        self._store = store

    def newest(self, job: Job) -> Job:
        """The freshest version of a job that the store gave."""
        fresh = self._driver.controller.jobs.get(job.id) or self._driver.unsaved(job.id)
        return fresh or job

    async def find(self, text: str) -> list[Job]:
        """Jobs that a text stands for, freshest versions; an array gives all its elements.

        A job that is open in the store and unknown here became durable after the store was asked:
        it is asked again, or an end that was told before would be taken back.
        """
        found = await self._store.find(text)
        if any(not job.state.is_ended and not self._is_known(job) for job in found):
            found = await self._store.find(text)
        return [self.newest(job) for job in found]

    def _is_known(self, job: Job) -> bool:
        return job.id in self._driver.controller.jobs or self._driver.unsaved(job.id) is not None

    async def get(self, text: str) -> list[Job]:
        """As `find`.

        Raises:
            NotFoundError: it stands for nothing.
        """
        found = await self.find(text)
        if not found:
            raise not_found(text)
        return found

    async def get_all(self, texts: Iterable[str]) -> list[Job]:
        """The jobs of several texts, each once, in the order in which they are first named."""
        found: dict[str, Job] = {}
        missing: list[NotFoundError] = []
        for text in texts:
            try:
                found.update({job.id: job for job in await self.get(text)})
            except NotFoundError as error:
                missing.append(error)
        if missing:
            raise missing[0]
        return list(found.values())

    def view(self, job: Job) -> JsonObject:
        """The JOB object of a job, with its freshest reason."""
        return job_view(job, self._reason(job))

    def _reason(self, job: Job) -> Reason | None:
        return self._driver.controller.reason_of(job)

    async def view_found(self, text: str, found: list[Job]) -> JsonObject:
        """One object for what a text stands for: a job, or a whole array."""
        array = found[0].array
        if array is None or text not in (array.name, array.array_id):
            return self.view(found[0])
        return self._array_view(found)

    def _array_view(self, elements: list[Job]) -> JsonObject:
        return array_view(elements, self._driver.controller.reasons, count_states(elements))

    async def rows(
        self, states: Set[JobState], queue: str | None, *, ended: bool, limit: int | None
    ) -> tuple[list[JsonObject], int]:
        """Rows of ``ls``: open jobs in order, then ended ones, newest first; an array is one row.

        Args:
            states: Only these; all when empty.
            queue: Only this one; all when empty.
            ended: Ended jobs too: the newest 1,000, or as many as ``limit`` asks for.
            limit: So many rows at most are made; making one costs more than counting it.

        Returns:
            The first rows that are wanted, and how many there are.
        """
        rows: list[JsonObject] = []
        total = 0
        for job in await self._listed(max(limit or 0, ENDED_SHOWN_MAX) if ended else 0):
            if queue and job.spec.queue != queue:
                continue
            elements = await self.find(job.array.array_id) if job.array is not None else []
            row = self._array_view(elements) if elements else None
            if states and not states & {one.state for one in elements or [job]}:
                continue
            total += 1
            if limit is None or len(rows) < limit:
                rows.append(row or self.view(job))
        return rows, total

    async def _listed(self, ended_max: int) -> list[Job]:
        """Jobs in the order of ``ls``; of each array only the first element that is met."""
        jobs = await self.current(ended_max)
        jobs.sort(key=_listing_rank)
        first: dict[str, Job] = {}
        for job in jobs:
            first.setdefault(job.array.array_id if job.array is not None else job.id, job)
        return list(first.values())

    async def current(self, ended_max: int) -> list[Job]:
        """Every open job and the newest ended ones, each once, freshest versions.

        What this process knows is taken before the store is asked: a job that ends meanwhile is
        then in one of the two, and one that has ended and is not durable yet in the first.

        Args:
            ended_max: Ended jobs that are read from the store; 0 leaves out all that have ended.
        """
        open_jobs = list(self._driver.controller.jobs.values())
        if not ended_max:
            return open_jobs
        known = {job.id: job for job in (*self._driver.all_unsaved(), *open_jobs)}
        known |= {job.id: job for job in await self._store.ended_jobs(ended_max)}
        return [self.newest(job) for job in known.values()]

    async def wait_until_saved(self, ids: list[str]) -> None:
        """Wait until what is decided of these jobs is durable.

        Raises:
            StoreFullError: it is not in time; it is kept, and written once there is room.
        """
        try:
            async with asyncio.timeout(SAVE_S_MAX):
                await self._driver.wait_until_saved(ids)
        except TimeoutError:
            raise StoreFullError(
                "what you asked for is noted, and could not be written to the disk yet.",
                "It is done once there is room; if the service ends before, ask again.",
            ) from None

    async def wait_until_decided(self, jobs: Iterable[Job]) -> None:
        """Wait until the controller knows jobs that the store gave: one may just have come.

        Nothing may await between this call's return and the event that the jobs are for.
        """
        is_open = self._driver.controller.is_open
        new = [job.id for job in jobs if not job.state.is_ended and not is_open(job.id)]
        if new:
            await self.known_ends(new)

    async def known_ends(self, ids: list[str]) -> dict[str, JobState]:
        """States of those of these jobs and arrays that have ended.

        Nothing may await between this call's return and the event that uses the answer, so it asks
        again until each id is either open in the controller or known to have ended. A job may be
        durable by then, so that no error of the store may come between it and the controller.
        """
        while True:
            try:
                ended = await self._store.final_states(ids)
            except TemporaryError as error:
                await asyncio.sleep(error.delay_s)
                continue
            controller = self._driver.controller
            unknown = []
            for one in ids:
                waiting = self._driver.unsaved(one)
                if waiting is not None and waiting.state.is_ended:
                    ended[one] = waiting.state
                elif one not in ended and not controller.is_open(one):
                    unknown.append(one)
            if not unknown:
                return ended
            await asyncio.sleep(0.01)


def _listing_rank(job: Job) -> tuple[int, int]:
    """Placed jobs, then those that wait, each in order; then ended ones, newest first."""
    if job.state.is_ended:
        return 2, -job.seq
    return (0 if job.state.is_placed else 1), job.seq
