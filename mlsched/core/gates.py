"""What keeps a job waiting although there may be room: a paused queue, dependencies, bounds."""

from __future__ import annotations

from collections.abc import Mapping

from mlsched.core.lifecycle import is_satisfied
from mlsched.model.jobs import Job, JobState, ResolvedDependency, queue_keys
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.snapshots import ClusterSnapshot


def own_gate(job: Job, snapshot: ClusterSnapshot) -> Reason | None:
    """What keeps this very job: a dependency that has not ended, or the wait before a retry."""
    return _dependency_gate(job, snapshot) or _backoff_gate(job, snapshot)


def queue_gate(job: Job, paused: frozenset[str]) -> Reason | None:
    """Shut when every queue that would do is paused."""
    if not paused or any(key not in paused for key in queue_keys(job)):
        return None
    names = [job.spec.queue, *job.spec.queues]
    text = f"queue {names[0]} is paused"
    if len(names) > 1:
        text = f"queues {', '.join(names)} are paused"
    return Reason(ReasonCode.HELD, text, {"queues": names})


def throttle_gate(job: Job, running: int) -> Reason | None:
    """Shut when as many elements of the job's array run as may at once."""
    array = job.array
    if array is None or not array.max_parallel or running < array.max_parallel:
        return None
    text = f"{running} elements of {array.name} run, and at most {array.max_parallel} may"
    return Reason(ReasonCode.ARRAY_THROTTLED, text, {"running": running})


def lost_dependency(job: Job, states: Mapping[str, JobState]) -> ResolvedDependency | None:
    """The first dependency that can never be satisfied any more.

    None for a job that was placed before: what it waited for had ended as it needs, and may be
    gone meanwhile.
    """
    if job.attempt:
        return None
    for dependency in job.after:
        state = states.get(dependency.job_id)
        if state is not None and is_satisfied(dependency.condition, state) is False:
            return dependency
    return None


def dependency_failed(name: str) -> Reason:
    """Why a job that waits for this one never runs."""
    text = f"will never run: {name} did not end as this job needs"
    return Reason(ReasonCode.DEPENDENCY_FAILED, text, {"dependency": name})


def _dependency_gate(job: Job, snapshot: ClusterSnapshot) -> Reason | None:
    if not job.after or job.attempt:
        return None
    waiting = [
        dependency.name
        for dependency in job.after
        if (state := snapshot.states.get(dependency.job_id)) is None
        or is_satisfied(dependency.condition, state) is None
    ]
    if not waiting:
        return None
    text = f"waits for {', '.join(waiting[:5])} to end"
    return Reason(ReasonCode.DEPENDENCY_PENDING, text, {"waiting_for": waiting})


def _backoff_gate(job: Job, snapshot: ClusterSnapshot) -> Reason | None:
    until_ms = snapshot.backoff_until_ms.get(job.id, 0)
    if until_ms <= snapshot.now.mono_ms:
        return None
    wait_s = -(-(until_ms - snapshot.now.mono_ms) // 1000)
    text = f"waits before try {job.attempt + 1}, after attempt {job.attempt} failed"
    return Reason(ReasonCode.RETRY_BACKOFF, text, {"wait_s": wait_s, "attempt": job.attempt})
