"""MLJob objects as the durable record of jobs: read by a watch, written by status alone.

The JobStore of a cluster. What is written carries the resource version that was read last, so that
nobody's write is lost, and the epoch of the lease, so that an older controller finds out that it is
one. A job that only waits is never written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.objects import Metadata, MLJob, Pod, decode_job, job_path
from mlsched.adapters.kubernetes.persistence import REFUSED_S, insist
from mlsched.adapters.kubernetes.pods import (
    ATTEMPT_LABEL,
    INDEX_LABEL,
    JOB_LABEL,
    UID_LABEL,
    Owner,
    passed_on,
)
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.errors import SpecError
from mlsched.model.events import CancelRequested, Event, JobRestored, JobWithdrawn
from mlsched.model.jobs import Job, JobState
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import API_VERSION, KIND, JobSpec
from mlsched.specs.documents import load_spec
from mlsched.specs.records import (
    CANCEL_ANNOTATION,
    jobs_from,
    status_from,
    worst_of,
)
from mlsched.specs.sizes import check_size
from mlsched.specs.statuses import JobRecord


class _Known:
    """One object whose jobs the controller was told of."""

    def __init__(self, owner: Owner, jobs: Iterable[Job]) -> None:
        self.owner = owner
        self.jobs = {job.id: job for job in jobs}
        self.cancelled = False
        self.withdrawn = False
        self.unwritten = False
        """Its status could not be written: nothing may start that stands in no record."""


class MLJobs:
    """Events from MLJob objects, and their statuses.

    Args:
        emit: Takes the events.
        epoch: Of the lease, now.
        now_ms: The wall clock.
        on_saved: Told of each job whose new record is durable, with its object.
    """

    def __init__(
        self,
        api: Api,
        emit: Callable[[Event], None],
        *,
        epoch: Callable[[], int] = lambda: 0,
        now_ms: Callable[[], int],
        on_saved: Callable[[Job, Metadata], None] = lambda job, metadata: None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.reflector = Reflector(api, job_path(""), MLJob, on_problem=on_problem)
        self.lost: LeaseLostError | None = None
        """Set when another controller was found to be newer."""
        self._api = api
        self._emit = emit
        self._epoch = epoch
        self._now_ms = now_ms
        self._on_saved = on_saved
        self._on_problem = on_problem
        self._known: dict[str, _Known] = {}
        self._seq = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def next_seq(self) -> int:
        """The next place in the order of acceptance."""
        self._seq += 1
        return self._seq

    def in_order(self) -> list[MLJob]:
        """All objects in the order of their creation.

        Those of one second, by resource version: one that nobody has written to still has that of
        its creation.
        """
        return sorted(
            self.reflector.objects.values(),
            key=lambda one: (one.metadata.creation_timestamp, one.metadata.version),
        )

    def newest_epoch(self) -> int:
        """The highest epoch that any record was written in; -1 without records."""
        statuses = (one.status for one in self.reflector.objects.values())
        return max((status.epoch for status in statuses if status is not None), default=-1)

    def owner_of(self, job_id: str) -> Owner | None:
        """The object of a job; None when it is gone, or its status could not be written."""
        known = self._known.get(_object_key(job_id))
        return None if known is None or known.withdrawn or known.unwritten else known.owner

    async def wants(self, pod: Pod) -> bool:
        """Whether the record says that the attempt of a pod goes on; asks the API server."""
        labels = pod.metadata.labels
        path = job_path(pod.metadata.namespace, labels.get(JOB_LABEL, ""))
        try:
            found = await insist(lambda: self._api.get(path), self._on_problem)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        one = decode_job(found)
        if one.metadata.uid != labels.get(UID_LABEL) or one.status is None:
            return False
        index = labels.get(INDEX_LABEL, "")
        elements = [element for element in one.status.elements if str(element.index) == index]
        records: list[JobRecord] = [*elements] if index else [one.status]
        number = labels.get(ATTEMPT_LABEL, "")
        return any(one.state.is_placed and str(one.attempt) == number for one in records)

    def observe(self, before: MLJob | None, after: MLJob | None) -> None:
        """Tell what a change of an object means."""
        one = after or before
        if one is None:
            return
        key = one.metadata.key
        known = self._known.get(key)
        if after is None or after.metadata.deletion_timestamp is not None:
            if known is not None and known.owner.uid == one.metadata.uid:
                self._withdraw(key, known)
            return
        if known is None or known.owner.uid != after.metadata.uid:
            if known is not None:
                self._withdraw(key, known)
            self._accept(key, after)
        self._check_cancel(key, after)

    async def save(self, jobs: Iterable[Job]) -> None:
        """Write the statuses of the objects of these jobs."""
        changed: dict[str, list[Job]] = {}
        for job in jobs:
            known = self._known.get(_object_key(job.id))
            if known is not None and job.id in known.jobs:
                known.jobs[job.id] = job
                changed.setdefault(_object_key(job.id), []).append(job)
        await asyncio.gather(*(self._write(key, some) for key, some in changed.items()))

    async def close(self) -> None:
        """Stop what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _withdraw(self, key: str, known: _Known) -> None:
        if not known.withdrawn:
            known.withdrawn = True
            self._known.pop(key, None)
            for job in known.jobs.values():
                self._emit(JobWithdrawn(job.id))

    def _accept(self, key: str, one: MLJob) -> None:
        m = one.metadata
        owner = Owner(m.namespace, m.name, m.uid, passed_on(m.annotations))
        try:
            spec = load_spec(one.spec)
            check_size(spec)
        except SpecError as error:
            self._refuse(key, one, owner, error)
            return
        jobs = jobs_from(one.identity, spec, one.status, self.next_seq())
        self._known[key] = _Known(owner, jobs)
        ended = [job.state for job in jobs if job.state.is_ended]
        for job in jobs:
            if not job.state.is_ended:
                states = self._ends_before(job)
                if job.array is not None and ended:
                    states[job.array.array_id] = worst_of(ended)
                self._emit(JobRestored(job, states))

    def _ends_before(self, job: Job) -> dict[str, JobState]:
        """Final states of the jobs and whole arrays that a job waits for."""
        found: dict[str, JobState] = {}
        for dependency in job.after:
            states = self._states_of(dependency.job_id)
            if states and all(state.is_ended for state in states):
                found[dependency.job_id] = worst_of(states)
        return found

    def _states_of(self, job_id: str) -> list[JobState]:
        """States of a job, or of all elements of an array, wherever it is in the order."""
        key = _object_key(job_id)
        known = self._known.get(key)
        one = self.reflector.objects.get(key)
        if known is not None:
            jobs = known.jobs
        elif one is not None and one.status is not None:
            try:
                spec = load_spec(one.spec)
                check_size(spec)
                made = jobs_from(one.identity, spec, one.status, 0)
            except SpecError:
                return [one.status.state]
            jobs = {job.id: job for job in made}
        else:
            return []
        return [jobs[job_id].state] if job_id in jobs else [job.state for job in jobs.values()]

    def _refuse(self, key: str, one: MLJob, owner: Owner, error: SpecError) -> None:
        """A spec that the schema lets through and that cannot be run ends at once."""
        message = f"{error.message} {error.hint}".strip()
        base = jobs_from(one.identity, JobSpec(command=("none",)), None, self.next_seq())[0]
        reason = Reason(ReasonCode.MISCONFIGURED, message)
        now_ms = self._now_ms()
        job = msgspec.structs.replace(
            base, state=JobState.FAILED, reason=reason, ended_at_ms=now_ms
        )
        self._known[key] = _Known(owner, [job])
        if one.status is None or not one.status.state.is_ended:
            self._begin(self._write(key, [job]))

    def _check_cancel(self, key: str, one: MLJob) -> None:
        known = self._known.get(key)
        wish = one.metadata.annotations.get(CANCEL_ANNOTATION)
        if known is None or wish is None or known.cancelled:
            return
        known.cancelled = True
        grace_s = int(wish) if wish.isdecimal() and len(wish) < 6 else None
        for job in known.jobs.values():
            if not job.state.is_ended:
                self._emit(CancelRequested(job.id, grace_s))

    async def _write(self, key: str, changed: list[Job]) -> None:
        known = self._known.get(key)
        if known is None:
            return
        path = f"{job_path(known.owner.namespace, known.owner.name)}/status"
        while (one := self._current(key, known)) is not None:
            body = self._body(one, known)
            try:
                found = await insist(partial(self._api.replace, path, body), self._on_problem)
                self.reflector.put(found)
                break
            except ApiError as error:
                if error.code != 409:
                    self._on_problem(f"the status of {key} cannot be written: {error}")
                    self._begin(self._write_later(key, known))
                    return
            if not await self._catch_up(key):
                return
        known.unwritten = False
        for job in changed:
            if one is not None:
                self._on_saved(job, one.metadata)

    async def _write_later(self, key: str, known: _Known) -> None:
        """Write all that is known of an object, once whatever refused it has had some time."""
        if known.unwritten:
            return
        known.unwritten = True
        await asyncio.sleep(REFUSED_S)
        known.unwritten = False
        if self._known.get(key) is known:
            await self._write(key, list(known.jobs.values()))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _current(self, key: str, known: _Known) -> MLJob | None:
        one = self.reflector.objects.get(key)
        return one if one is not None and one.metadata.uid == known.owner.uid else None

    async def _catch_up(self, key: str) -> bool:
        """Read an object that changed under us; False when it is gone.

        Raises:
            LeaseLostError: a newer controller has written to it.
        """
        namespace, _, name = key.partition("/")
        try:
            found = await insist(lambda: self._api.get(job_path(namespace, name)), self._on_problem)
        except ApiError:
            return False
        one = self.reflector.put(found)
        if one.status is not None and one.status.epoch > self._epoch():
            self.lost = LeaseLostError(f"{key} was written by a newer controller.")
            raise self.lost
        return True

    def _body(self, one: MLJob, known: _Known) -> bytes:
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


def _object_key(job_id: str) -> str:
    """``NAMESPACE/NAME`` of the object of a job, of which an element's id goes on ``.INDEX``."""
    return job_id.partition(".")[0]
