"""Writes what is decided of jobs into the statuses of their MLJob objects.

What is written carries the resource version that was read last, so that nobody's write is lost, and
the epoch of the lease, so that an older controller finds out that it is one. A job that only waits
is never written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.objects import Metadata, MLJob, job_path
from mlsched.adapters.kubernetes.persistence import REFUSED_S, insist
from mlsched.adapters.kubernetes.pods import Owner
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.model.jobs import Job
from mlsched.model.specs import API_VERSION, KIND
from mlsched.runtime.tasks import Tasks
from mlsched.specs.records import status_from

LATE_S = 10.0
"""After so long the others wait no more for the status of one object, which may be in trouble of
its own, such as a webhook of its namespace that does not answer."""


class KnownJobs:
    """One object whose jobs the controller was told of."""

    def __init__(self, owner: Owner, jobs: Iterable[Job]) -> None:
        self.owner = owner
        self.jobs = {job.id: job for job in jobs}
        self.cancelled: dict[str, int | None] = {}
        """Grace that was told of jobs that were asked to end, by id."""
        self.withdrawn = False
        self.unwritten = False
        """Its status could not be written: nothing may start that stands in no record."""
        self.missed: list[Job] = []
        """What changed since then."""


class Recorder:
    """The JobStore of a cluster.

    Args:
        epoch: Of the lease, now.
        now_ms: The wall clock.
        on_saved: Told of each job whose new record is durable, with its object.
        on_lost: Told why nothing may be written any more: another controller is newer.

    Attributes:
        reflector: The copy of all objects.
        known: The objects whose jobs the controller was told of, by key.
    """

    def __init__(
        self,
        api: Api,
        *,
        epoch: Callable[[], int] = lambda: 0,
        now_ms: Callable[[], int],
        on_saved: Callable[[Job, Metadata], None] = lambda job, metadata: None,
        on_lost: Callable[[str], None] = lambda why: None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.reflector = Reflector(api, job_path(""), MLJob, on_problem=on_problem)
        self.known: dict[str, KnownJobs] = {}
        self._api = api
        self._epoch = epoch
        self._now_ms = now_ms
        self._on_saved = on_saved
        self._on_lost = on_lost
        self._on_problem = on_problem
        self._tasks = Tasks(on_problem, told=(LeaseLostError,))

    async def save(self, jobs: Iterable[Job]) -> None:
        """Write the statuses of the objects of these jobs; what takes too long goes on by itself.

        Raises:
            LeaseLostError: nothing may be written any more.
        """
        changed: dict[str, list[Job]] = {}
        for job in jobs:
            known = self.known.get(object_key(job.id))
            if known is not None and job.id in known.jobs:
                known.jobs[job.id] = job
                changed.setdefault(object_key(job.id), []).append(job)
        writes: dict[str, asyncio.Task[bool]] = {}
        for key, some in changed.items():
            if self.known[key].unwritten:
                self.known[key].missed += some
            else:
                writes[key] = self._tasks.begin(self._write(key, self.known[key], some))
        if writes:
            done, _ = await asyncio.wait(writes.values(), timeout=LATE_S)
            for error in [write.exception() for write in done]:
                if error is not None:
                    raise error
        for key, write in writes.items():
            self._conclude(key, write, changed[key])

    def _conclude(self, key: str, write: asyncio.Task[bool], changed: list[Job]) -> None:
        """What became of a write: done, refused or late."""
        if not write.done():
            write.cancel()
            self._on_problem(f"the status of {key} is late: nothing of it starts until it is there")
            self.write_later(key, changed)
        elif not write.result():
            self.write_later(key, changed, REFUSED_S)

    def write_later(self, key: str, changed: list[Job], delay_s: float = 0.0) -> None:
        """Write the status of an object without anybody waiting; nothing starts before it is done.

        Args:
            delay_s: From now to the first try.
        """
        known = self.known.get(key)
        if known is not None:
            known.unwritten, known.missed = True, changed
            self._tasks.begin(self._insist(key, known, delay_s))

    async def close(self) -> None:
        """Stop what is under way."""
        await self._tasks.close()

    async def _write(self, key: str, known: KnownJobs, changed: list[Job]) -> bool:
        """Write the status of an object, if it is still there; False when it is still to be done.

        Raises:
            LeaseLostError: nothing may be written any more.
        """
        try:
            return await self._try(key, known, changed)
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001 - one odd object must not end the work on others
            self._on_problem(f"the status of {key} cannot be written: {error!r}")
            return False

    async def _try(self, key: str, known: KnownJobs, changed: list[Job]) -> bool:
        """As `_write`, where what is unexpected is raised."""
        path = f"{job_path(known.owner.namespace, known.owner.name)}/status"
        while (one := self._current(key, known)) is not None:
            body = self._body(one, known)
            try:
                found = await insist(partial(self._api.replace, path, body), self._on_problem)
                self.reflector.put(found)
                break
            except ApiError as error:
                if error.is_absent(known.owner.name):
                    self.reflector.note_gone(key, known.owner.uid, 0)
                elif error.code != 409 or not await self._catch_up(key, known):
                    self._on_problem(f"the status of {key} cannot be written: {error}")
                    return False
        for job in changed:
            if one is not None:
                self._on_saved(job, one.metadata)
        return True

    async def _insist(self, key: str, known: KnownJobs, delay_s: float) -> None:
        """Write until it is done, with all that changes meanwhile."""
        await asyncio.sleep(delay_s)
        while known.missed and self.known.get(key) is known:
            changed, known.missed = known.missed, []
            if not await self._write(key, known, changed):
                known.missed = changed + known.missed
                await asyncio.sleep(REFUSED_S)
        known.unwritten = False

    def _current(self, key: str, known: KnownJobs) -> MLJob | None:
        one = self.reflector.objects.get(key)
        return one if one is not None and one.metadata.uid == known.owner.uid else None

    async def _catch_up(self, key: str, known: KnownJobs) -> bool:
        """Read an object that changed under us; False when that is refused.

        Raises:
            LeaseLostError: a newer controller has written to it.
        """
        owner = known.owner
        path = job_path(owner.namespace, owner.name)
        try:
            found = await insist(lambda: self._api.get(path), self._on_problem)
        except ApiError as error:
            if error.is_absent(owner.name):
                self.reflector.note_gone(key, owner.uid, 0)
            return error.is_absent(owner.name)
        one = self.reflector.put(found)
        if one.status is not None and one.status.epoch > self._epoch():
            why = f"{key} was written by a newer controller."
            self._on_lost(why)
            raise LeaseLostError(why)
        return True

    def _body(self, one: MLJob, known: KnownJobs) -> bytes:
        status = status_from(
            list(known.jobs.values()),
            one.status,
            generation=one.metadata.generation,
            epoch=self._epoch(),
            now_ms=self._now_ms(),
        )
        metadata = one.metadata
        return msgspec.json.encode(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {
                    "name": metadata.name,
                    "namespace": metadata.namespace,
                    "uid": metadata.uid,
                    "resourceVersion": metadata.resource_version,
                },
                "status": status,
            }
        )


def object_key(job_id: str) -> str:
    """``NAMESPACE/NAME`` of the object of a job, of which an element's id goes on ``.INDEX``."""
    return job_id.partition(".")[0]
