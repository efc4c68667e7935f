"""Jobs as the objects that clients get: the contract of ``-o json``, in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mlsched.model.jobs import Attempt, GroupPlacement, Job, JobState, Outcome, count_gpus
from mlsched.model.nodes import Device
from mlsched.model.reasons import Reason

JsonObject = dict[str, Any]

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


def rfc3339(at_ms: int | None) -> str | None:
    """``2026-11-26T13:00:00.000Z``; None stays None."""
    if at_ms is None:
        return None
    text = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def reason_view(reason: Reason | None) -> JsonObject | None:
    """Code, message and evidence."""
    if reason is None:
        return None
    return {"code": reason.code, "message": reason.message, "evidence": reason.evidence}


def job_view(job: Job, reason: Reason | None) -> JsonObject:
    """The JOB object of one job; ``reason`` is the freshest one that is known."""
    outcome = job.attempts[-1].outcome if job.attempts else None
    return {
        "name": job.name,
        "id": job.id,
        "state": job.state,
        "reason": reason_view(reason or job.reason),
        "exit_code": job.exit_code,
        "submitted_at": rfc3339(job.submitted_at_ms),
        "started_at": rfc3339(job.started_at_ms),
        "ended_at": rfc3339(job.ended_at_ms),
        "attempt": job.attempt,
        "queue": job.spec.queue,
        "priority": job.spec.priority,
        "gpus": list(job.gpus),
        "gpus_requested": count_gpus(job),
        "user": job.user,
        "command": list(job.spec.command),
        "array": None,
        "array_index": job.array.index if job.array else None,
        "retries_left": max(0, job.spec.retries - job.retries_used),
        "labels": job.spec.labels,
    } | output_view(outcome)


def array_view(
    elements: Sequence[Job], reasons: Mapping[str, Reason], counts: Mapping[str, int]
) -> JsonObject:
    """One row for an array.

    Args:
        elements: Those that are known here, at least one, in index order.
        reasons: Fresh reasons of pending elements, by id.
        counts: Elements in each state, of the whole array.
    """
    first = elements[0]
    if first.array is None:
        raise AssertionError(f"{first.name} is no element of an array")
    state = next(state for state in _STATE_ORDER if counts.get(state))
    shown = representative(elements)
    codes = [job.exit_code for job in elements if job.exit_code is not None]
    ended = all(JobState(name).is_ended for name, count in counts.items() if count)
    view = job_view(shown, reasons.get(shown.id)) | output_view(None)
    return view | {
        "name": first.array.name,
        "id": first.array.array_id,
        "state": state,
        "exit_code": max(codes, default=None) if ended else None,
        "submitted_at": rfc3339(first.submitted_at_ms),
        "started_at": rfc3339(_first(job.started_at_ms for job in elements)),
        "ended_at": rfc3339(_last(job.ended_at_ms for job in elements)) if ended else None,
        "gpus": [uuid for job in elements if job.state.is_placed for uuid in job.gpus],
        "array": {"size": first.array.size, "states": dict(counts)},
        "array_index": None,
    }


def representative(elements: Sequence[Job]) -> Job:
    """The element whose state and reason stand for those of the whole array."""

    def rank(job: Job) -> tuple[int, int]:
        return _STATE_ORDER.index(job.state), -(job.exit_code or 0)

    return min(elements, key=rank)


def _first(times: Iterable[int | None]) -> int | None:
    return min((at for at in times if at is not None), default=None)


def _last(times: Iterable[int | None]) -> int | None:
    return max((at for at in times if at is not None), default=None)


def count_states(elements: Iterable[Job]) -> dict[str, int]:
    """How many jobs are in each state."""
    return dict(sorted(Counter(str(job.state) for job in elements).items()))


def attempt_view(attempt: Attempt) -> JsonObject:
    """One attempt in ``show``."""
    outcome = attempt.outcome
    gpus = [uuid for group in attempt.placements for uuid in group.devices]
    view: JsonObject = {
        "number": attempt.number,
        "started_at": rfc3339(attempt.started_at_ms),
        "ended_at": rfc3339(outcome.ended_at_ms or None) if outcome else None,
        "gpus": gpus,
        "placed_because": attempt.placed_because,
    }
    return view | outcome_view(outcome)


def outcome_view(outcome: Outcome | None) -> JsonObject:
    """How an attempt ended, and what it used; all null while it runs."""
    return {
        "cause": outcome.cause if outcome else None,
        "exit_code": outcome.exit_code if outcome else None,
        "signal": (outcome.signal or None) if outcome else None,
        "message": outcome.message if outcome else None,
        "run_s": outcome.run_ms / 1000 if outcome else None,
        "cpu_s": outcome.cpu_ms / 1000 if outcome else None,
        "memory_peak_bytes": outcome.memory_peak_bytes if outcome else None,
    } | output_view(outcome)


def output_view(outcome: Outcome | None) -> JsonObject:
    """How much an attempt wrote, and what of it is not in its log; all null while it runs."""
    return {
        "output_bytes": outcome.output_bytes if outcome else None,
        "output_lost_bytes": outcome.output_lost_bytes if outcome else None,
        "output_dropped_bytes": outcome.output_dropped_bytes if outcome else None,
    }


def placement_view(group: GroupPlacement) -> JsonObject:
    """Where one group of a gang is, and what it holds there."""
    return {
        "node": group.node,
        "gpus": list(group.devices),
        "cpus": group.milli_cpus / 1000,
        "memory_bytes": group.memory_bytes,
    }


def device_view(device: Device, holder: str | None) -> JsonObject:
    """A GPU as placement sees it, and the job that holds it."""
    return {
        "uuid": device.uuid,
        "model": device.model,
        "memory_bytes": device.memory_bytes,
        "profile": device.profile,
        "healthy": device.healthy,
        "health_reason": device.health_reason,
        "holder": holder,
    }


def usage_view(job: Job, now_ms: int) -> JsonObject:
    """Wait, run time and resources used, for ``report``; seconds and bytes."""
    outcomes = [a.outcome for a in job.attempts if a.outcome is not None]
    run_s = sum(outcome.run_ms for outcome in outcomes) / 1000
    if job.state is JobState.RUNNING and job.started_at_ms is not None:
        run_s += max(0, now_ms - job.started_at_ms) / 1000
    first = next((a.started_at_ms for a in job.attempts if a.started_at_ms is not None), None)
    until = first if first is not None else (job.ended_at_ms or now_ms)
    return {
        "wait_s": max(0, until - job.submitted_at_ms) / 1000,
        "run_s": run_s,
        "cpu_s": sum(outcome.cpu_ms for outcome in outcomes) / 1000,
        "memory_peak_bytes": max((o.memory_peak_bytes for o in outcomes), default=0),
        "gpu_s": run_s * len(job.gpus),
    }
