"""What changes of MLJob objects mean to the controller: jobs to run, to cancel, to forget."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.objects import MLJob, Pod, decode_job, job_path
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.pods import (
    ATTEMPT_LABEL,
    INDEX_LABEL,
    JOB_LABEL,
    UID_LABEL,
    Owner,
    passed_on,
)
from mlsched.adapters.kubernetes.recorders import KnownJobs, Recorder, object_key
from mlsched.errors import SpecError
from mlsched.model.events import CancelRequested, Event, JobRestored, JobWithdrawn
from mlsched.model.jobs import Job, JobState
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import JobSpec
from mlsched.specs.documents import load_spec, validate_spec
from mlsched.specs.records import (
    find_contradiction,
    jobs_from,
    worst_of,
)
from mlsched.specs.sizes import check_size
from mlsched.specs.statuses import JobRecord
from mlsched.specs.wishes import read_cancellation

NEVER = -1
"""In place of a grace: nothing was asked yet."""


class MLJobs:
    """Events from MLJob objects.

    Args:
        recorder: Keeps the copy of all objects.
        emit: Takes the events.
        now_ms: The wall clock.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        api: Api,
        recorder: Recorder,
        emit: Callable[[Event], None],
        now_ms: Callable[[], int],
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._recorder = recorder
        self._objects = recorder.reflector.objects
        self._known = recorder.known
        self._emit = emit
        self._now_ms = now_ms
        self._on_problem = on_problem
        self._seq = 0

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
            self._objects.values(),
            key=lambda one: (one.metadata.creation_timestamp, one.metadata.version),
        )

    def newest_epoch(self) -> int:
        """The highest epoch that any record was written in; -1 without records."""
        statuses = (one.status for one in self._objects.values())
        return max((status.epoch for status in statuses if status is not None), default=-1)

    def owner_of(self, job_id: str) -> Owner | None:
        """The object of a job; None when it is gone, or its status could not be written."""
        known = self._known.get(object_key(job_id))
        return None if known is None or known.withdrawn or known.unwritten else known.owner

    async def wants(self, pod: Pod) -> bool:
        """Whether the record says that the attempt of a pod goes on; asks the API server."""
        labels = pod.metadata.labels
        name = labels.get(JOB_LABEL, "")
        path = job_path(pod.metadata.namespace, name)
        try:
            found = await insist(lambda: self._api.get(path), self._on_problem)
        except ApiError as error:
            if error.is_absent(name):
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

    def _withdraw(self, key: str, known: KnownJobs) -> None:
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
            if one.status is None:  # what has begun goes on, also by rules that were others then
                validate_spec(spec)
            check_size(spec)
        except SpecError as error:
            self._refuse(key, one, owner, error)
            return
        jobs = jobs_from(one.identity, spec, one.status, self.next_seq())
        if odd := next(filter(None, map(find_contradiction, jobs)), ""):
            self._on_problem(f"{key} is left alone: its status says {odd}")
            return
        self._known[key] = KnownJobs(owner, jobs)
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
        key = object_key(job_id)
        known = self._known.get(key)
        one = self._objects.get(key)
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
        if job_id in jobs:
            return [jobs[job_id].state]
        return [job.state for job in jobs.values()] if job_id == key else []

    def _refuse(self, key: str, one: MLJob, owner: Owner, error: SpecError) -> None:
        """A spec that the schema lets through and that cannot be run ends at once."""
        message = f"{error.message} {error.hint}".strip()
        base = jobs_from(one.identity, JobSpec(command=("none",)), None, self.next_seq())[0]
        reason = Reason(ReasonCode.MISCONFIGURED, message)
        now_ms = self._now_ms()
        job = msgspec.structs.replace(
            base, state=JobState.FAILED, reason=reason, ended_at_ms=now_ms
        )
        self._known[key] = KnownJobs(owner, [job])
        if one.status is None or not one.status.state.is_ended:
            self._recorder.write_later(key, [job])

    def _check_cancel(self, key: str, one: MLJob) -> None:
        known, wish = self._known.get(key), read_cancellation(one.metadata.annotations)
        if known is None or wish is None:
            return
        for job in known.jobs.values():
            asked = wish.of(job.array.index if job.array else None)
            if asked is None or job.state.is_ended:
                continue
            if known.cancelled.get(job.id, NEVER) != asked.grace_s:
                known.cancelled[job.id] = asked.grace_s
                self._emit(CancelRequested(job.id, asked.grace_s))
