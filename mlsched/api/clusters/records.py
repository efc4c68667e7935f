"""MLJob objects as jobs and as the JOB objects that clients get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mlsched.adapters.kubernetes.objects import MLJob, decode_job, decode_raw_list
from mlsched.errors import NotFoundError, SpecError
from mlsched.model.jobs import Job, JobState
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import JobSpec
from mlsched.server.views import JsonObject, array_view, count_states, job_view
from mlsched.specs.documents import load_spec
from mlsched.specs.records import jobs_from
from mlsched.specs.sizes import check_size

ENDED_SHOWN_MAX = 1000
"""Ended jobs in one answer, unless more are asked for."""


class Record(msgspec.Struct, frozen=True):
    """One MLJob with its jobs: one, or all elements of an array."""

    object: MLJob
    jobs: tuple[Job, ...]

    @property
    def is_array(self) -> bool:
        """Whether it stands for several jobs."""
        return self.jobs[0].array is not None

    def element(self, index: int | None) -> tuple[Job, ...]:
        """All of its jobs, or the one of an index; nothing where there is none."""
        if index is None:
            return self.jobs
        return tuple(one for one in self.jobs if one.array and one.array.index == index)

    def view(self) -> JsonObject:
        """The row of ``ls``."""
        return (
            array_view(self.jobs, {}, count_states(self.jobs))
            if self.is_array
            else (job_view(self.jobs[0], None))
        )


def decode_record(body: bytes | msgspec.Raw, seq: int = 0) -> Record:
    """The record of one MLJob; one whose spec cannot be read is a job that failed.

    Raises:
        msgspec.DecodeError: it is no MLJob.
    """
    one = decode_job(body)
    try:
        spec = load_spec(one.spec)
        check_size(spec)
    except SpecError as error:
        return Record(one, (_misconfigured(one, error, seq),))
    return Record(one, jobs_from(one.identity, spec, one.status, seq))


def _misconfigured(one: MLJob, error: SpecError, seq: int) -> Job:
    from msgspec.structs import replace

    (job,) = jobs_from(one.identity, JobSpec(command=("none",)), one.status, seq)
    if one.status is not None:
        return job
    reason = Reason(ReasonCode.MISCONFIGURED, f"{error.message} {error.hint}".strip())
    return replace(job, state=JobState.FAILED, reason=reason)


def decode_list(body: bytes) -> tuple[list[Record], str]:
    """The records of a list in the order of their creation, and the list's resource version.

    An object that cannot be decoded is left out.
    """
    found = decode_raw_list(body)
    objects = []
    for item in found.items:
        try:
            objects.append(decode_record(item))
        except msgspec.DecodeError:
            continue
    objects.sort(key=lambda one: (one.object.metadata.creation_timestamp, _version(one)))
    records = [_with_seq(one, seq) for seq, one in enumerate(objects, 1)]
    return records, found.metadata.resource_version


def _version(record: Record) -> int:
    return record.object.metadata.version


def _with_seq(record: Record, seq: int) -> Record:
    from msgspec.structs import replace

    return Record(record.object, tuple(replace(job, seq=seq) for job in record.jobs))


def rows(
    records: Iterable[Record], states: set[JobState], queue: str, *, ended: bool, limit: int | None
) -> tuple[list[JsonObject], int]:
    """Rows of ``ls``: open jobs in order, then ended ones, newest first; an array is one row."""
    wanted = [
        one
        for one in records
        if (not queue or one.jobs[0].spec.queue == queue)
        and (not states or any(job.state in states for job in one.jobs))
    ]
    open_ones = [one for one in wanted if not _has_ended(one)]
    open_ones.sort(key=lambda one: not any(job.state.is_placed for job in one.jobs))
    over = sorted(filter(_has_ended, wanted), key=_end_ms, reverse=True) if ended else []
    found = [*open_ones, *over[: max(limit or 0, ENDED_SHOWN_MAX)]]
    return [one.view() for one in found[:limit]], len(found)


def _has_ended(record: Record) -> bool:
    return all(job.state.is_ended for job in record.jobs)


def _end_ms(record: Record) -> int:
    return max(job.ended_at_ms or 0 for job in record.jobs)


def view_found(found: Sequence[Job], *, whole: bool, reasons: Mapping[str, Reason]) -> JsonObject:
    """One object for what a text stands for: a job, or a whole array."""
    if whole and found[0].array is not None:
        return array_view(found, reasons, count_states(found))
    return job_view(found[0], reasons.get(found[0].id))


def not_found(text: str, context: str) -> NotFoundError:
    """The error for a name that stands for no job."""
    shown = text[:80].encode("unicode_escape").decode("ascii")
    return NotFoundError(
        f"there is no job {shown!r} in context {context}.",
        f"Run 'mlsched -c {context} ls --all' to see the names.",
    )
