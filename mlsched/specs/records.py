"""From an MLJob object to the jobs that the controller knows, and back to its status. Pure.

An array is one object and one status; its elements that only wait stand in neither. What a status
says of a job is all that a controller needs to go on with it after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from mlsched.model.jobs import (
    ArrayMembership,
    Attempt,
    EndCause,
    GroupPlacement,
    Job,
    JobState,
    Outcome,
    ResolvedDependency,
    count_gpus,
)
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import JobSpec
from mlsched.specs.sizes import fit
from mlsched.specs.statuses import (
    ATTEMPTS_KEPT_MAX,
    AttemptStatus,
    Condition,
    ElementStatus,
    GroupStatus,
    JobRecord,
    JobStatus,
)

USER_ANNOTATION = "mlsched.io/user"
KEY_ANNOTATION = "mlsched.io/idempotency-key"


class Identity(Struct, frozen=True):
    """What an object's metadata says of a job."""

    namespace: str
    name: str
    created_at: str
    """RFC 3339."""
    annotations: Mapping[str, str] = {}

    @property
    def id(self) -> str:
        """Of the job, or of the array as a whole."""
        return f"{self.namespace}/{self.name}"


def jobs_from(
    identity: Identity, spec: JobSpec, status: JobStatus | None, seq: int
) -> tuple[Job, ...]:
    """The jobs of an MLJob: one, or one for each element of an array.

    Args:
        seq: Its place in the order of acceptance; elements share it and follow their index.
    """
    base = Job(
        id=identity.id,
        name=identity.name,
        seq=seq,
        spec=spec,
        submitted_at_ms=parse_time(identity.created_at) or 0,
        after=tuple(
            ResolvedDependency(_id_of(identity.namespace, one.job), one.job, one.condition)
            for one in spec.after
        ),
        idempotency_key=identity.annotations.get(KEY_ANNOTATION, ""),
        user=identity.annotations.get(USER_ANNOTATION, ""),
        namespace=identity.namespace,
    )
    if spec.array is None:
        return (_restore(base, status) if status else base,)
    known = {one.index: one for one in status.elements} if status else {}
    size = len(spec.array.indices)
    elements = []
    for index in spec.array.indices:
        membership = ArrayMembership(
            identity.id, identity.name, index, size, spec.array.max_parallel
        )
        element = _with(
            base,
            id=f"{identity.id}.{index}",
            name=f"{identity.name}[{index}]",
            array=membership,
        )
        elements.append(_restore(element, known[index]) if index in known else element)
    return tuple(elements)


def find_contradiction(job: Job) -> str:
    """What a restored record says that cannot be, and nobody knows how to go on with; or empty."""
    if job.state is JobState.PREEMPTED:
        return f"{job.state}, which is no state yet"
    groups = job.spec.nodes if job.state.is_placed else 0
    if len(job.placements) != groups:
        return f"{job.name} is {job.state} with {len(job.placements)} of {groups} groups"
    if job.state.is_placed and not (job.attempts and job.attempts[-1].number == job.attempt):
        return f"{job.name} is {job.state} without its attempt {job.attempt}"
    return ""


def _id_of(namespace: str, reference: str) -> str:
    """The id of what a document calls ``train`` or ``train[3]``."""
    name, bracket, index = reference.partition("[")
    return f"{namespace}/{name}" + (f".{index.rstrip(']')}" if bracket else "")


def _with(job: Job, **changes: Any) -> Job:
    from msgspec.structs import replace

    return replace(job, **changes)


def _restore(job: Job, record: JobRecord) -> Job:
    """The job as its record has it."""
    return _with(
        job,
        state=record.state,
        reason=_read_reason(record),
        attempt=record.attempt,
        retries_used=record.retries_used,
        requeues_used=record.requeues_used,
        placements=tuple(
            GroupPlacement(g.node, g.milli_cpus, g.memory_bytes, g.devices)
            for g in record.placements
        ),
        attempts=tuple(_read_attempt(one, record) for one in record.attempts),
        started_at_ms=parse_time(record.started_at),
        ended_at_ms=parse_time(record.ended_at),
        exit_code=record.exit_code,
        cancel_requested=record.cancel_requested,
        cancel_grace_s=record.cancel_grace_seconds,
    )


def _read_reason(record: JobRecord) -> Reason | None:
    """The reason; a word of another version counts as not looked at yet."""
    if not record.reason:
        return None
    known = {str(code): code for code in ReasonCode}
    code = known.get(record.reason, ReasonCode.PENDING_EVALUATION)
    return Reason(code, record.message, dict(record.evidence))


def _read_attempt(one: AttemptStatus, record: JobRecord) -> Attempt:
    placements: tuple[GroupPlacement, ...] = tuple(GroupPlacement(n, 0, 0) for n in one.nodes)
    if one.number == record.attempt and record.placements:
        placements = tuple(
            GroupPlacement(g.node, g.milli_cpus, g.memory_bytes, g.devices)
            for g in record.placements
        )
    outcome = None
    if one.cause:
        known = {str(cause): cause for cause in EndCause}
        outcome = Outcome(
            known.get(one.cause, EndCause.CANNOT_START),
            one.exit_code,
            one.signal,
            one.failed_rank,
            one.message,
            parse_time(one.ended_at) or 0,
            one.run_ms,
        )
    started = parse_time(one.started_at)
    return Attempt(one.number, started, outcome, placements, one.placed_because)


def status_from(
    jobs: Sequence[Job], previous: JobStatus | None, *, generation: int, epoch: int, now_ms: int
) -> JobStatus:
    """The status of an object from its jobs, with as much of the past as fits into an object.

    Args:
        jobs: All of them: one, or every element of an array in the order of the indices.
        previous: The status that is replaced: conditions that hold on keep their times.
    """
    first = jobs[0]
    if first.array is None:
        record = _record(first)
        elements: tuple[ElementStatus, ...] = ()
    else:
        record = _array_record(jobs)
        elements = tuple(
            ElementStatus(index=job.array.index, **_record(job))
            for job in jobs
            if job.array is not None and (job.state is not JobState.PENDING or job.attempt)
        )
    state, reason = record["state"], str(record["reason"])
    status = JobStatus(
        **record,
        nodes=tuple(sorted({g.node for job in jobs for g in job.placements})),
        gpus=count_gpus(first),
        conditions=_conditions(state, reason, str(record["message"]), previous, generation, now_ms),
        elements=elements,
        observed_generation=generation,
        epoch=epoch,
    )
    return fit(status, first.spec)


def _record(job: Job) -> dict[str, Any]:
    reason = job.reason
    kept = job.attempts[-ATTEMPTS_KEPT_MAX:]
    return {
        "state": job.state,
        "reason": str(reason.code) if reason else "",
        "message": reason.message if reason else "",
        "evidence": dict(reason.evidence) if reason else {},
        "attempt": job.attempt,
        "retries_used": job.retries_used,
        "requeues_used": job.requeues_used,
        "started_at": format_time(job.started_at_ms),
        "ended_at": format_time(job.ended_at_ms),
        "exit_code": job.exit_code,
        "cancel_requested": job.cancel_requested,
        "cancel_grace_seconds": job.cancel_grace_s,
        "placements": tuple(
            GroupStatus(g.node, g.milli_cpus, g.memory_bytes, g.devices) for g in job.placements
        ),
        "attempts": tuple(_write_attempt(one) for one in kept),
    }


def _write_attempt(one: Attempt) -> AttemptStatus:
    outcome = one.outcome
    return AttemptStatus(
        number=one.number,
        started_at=format_time(one.started_at_ms),
        nodes=tuple(group.node for group in one.placements),
        placed_because=one.placed_because,
        ended_at=format_time(outcome.ended_at_ms or None) if outcome else "",
        cause=str(outcome.cause) if outcome else "",
        exit_code=outcome.exit_code if outcome else None,
        signal=outcome.signal if outcome else 0,
        failed_rank=outcome.failed_rank if outcome else -1,
        message=outcome.message if outcome else "",
        run_ms=outcome.run_ms if outcome else 0,
    )


_STATE_ORDER = (
    JobState.RUNNING,
    JobState.STARTING,
    JobState.PREEMPTED,
    JobState.PENDING,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.SUCCEEDED,
)
"""The state of an array is the first of these that one of its elements is in."""


def _array_record(jobs: Sequence[Job]) -> dict[str, Any]:
    """An array as a whole: the worst of its states, and how many elements are in each."""
    counts = {state: sum(job.state is state for job in jobs) for state in _STATE_ORDER}
    state = next(state for state in _STATE_ORDER if counts[state])
    shown = next(job for job in jobs if job.state is state)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    codes = [job.exit_code for job in jobs if job.exit_code is not None]
    starts = [job.started_at_ms for job in jobs if job.started_at_ms is not None]
    ends = [job.ended_at_ms for job in jobs if job.ended_at_ms is not None]
    return {
        "state": state,
        "reason": str(shown.reason.code) if shown.reason else "",
        "message": told,
        "evidence": {},
        "attempt": 0,
        "started_at": format_time(min(starts, default=None)),
        "ended_at": format_time(max(ends, default=None)) if state.is_ended else "",
        "exit_code": max(codes, default=None) if state.is_ended else None,
        "cancel_requested": any(job.cancel_requested for job in jobs),
    }


def _conditions(
    state: JobState,
    reason: str,
    message: str,
    previous: JobStatus | None,
    generation: int,
    now_ms: int,
) -> tuple[Condition, ...]:
    """``Placed``, and once the job has ended ``Complete`` or ``Failed``, as for a batch Job."""
    wanted = [("Placed", "True" if state.is_placed else "False")]
    if state is JobState.SUCCEEDED:
        wanted.append(("Complete", "True"))
    elif state.is_ended:
        wanted.append(("Failed", "True"))
    before = {one.type: one for one in previous.conditions} if previous else {}
    made = []
    for kind, value in wanted:
        old = before.get(kind)
        since = format_time(now_ms)
        if old is not None and old.status == value:
            since = old.last_transition_time
        made.append(Condition(kind, value, reason or "Unknown", message, since, generation))
    return tuple(made)


def worst_of(states: Iterable[JobState]) -> JobState:
    """What an array has come to when its elements ended so."""
    return min(states, key=_STATE_ORDER.index, default=JobState.SUCCEEDED)


def format_time(at_ms: int | None) -> str:
    """``2026-11-26T13:00:00.000Z``; empty for None."""
    if at_ms is None:
        return ""
    text = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 time; None for none."""
    if not text:
        return None
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return None
