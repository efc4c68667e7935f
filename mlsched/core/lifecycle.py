"""The life of a job as a table: which state follows which, and what an outcome makes of a job.

Everything that changes a job's state goes through `advance`, so an illegal history cannot be
written. The diagram in docs/concepts.md is generated from `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import takewhile

from msgspec.structs import replace

from mlsched.errors import InvariantError
from mlsched.model.jobs import (
    Attempt,
    EndCause,
    Enforcement,
    GroupPlacement,
    Job,
    JobState,
    Outcome,
)
from mlsched.model.reasons import Reason, ReasonCode

S = JobState


class Move(StrEnum):
    """What can happen to a job."""

    PLACE = "place"
    REVOKE = "revoke"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"
    CANCEL = "cancel"
    PREEMPT = "preempt"
    REQUEUE = "requeue"


TRANSITIONS: dict[tuple[JobState, Move], JobState] = {
    (S.PENDING, Move.PLACE): S.STARTING,
    (S.PENDING, Move.CANCEL): S.CANCELLED,
    (S.STARTING, Move.REVOKE): S.PENDING,
    (S.STARTING, Move.START): S.RUNNING,
    (S.STARTING, Move.SUCCEED): S.SUCCEEDED,
    (S.STARTING, Move.FAIL): S.FAILED,
    (S.STARTING, Move.RETRY): S.PENDING,
    (S.STARTING, Move.CANCEL): S.CANCELLED,
    (S.STARTING, Move.PREEMPT): S.PREEMPTED,
    (S.RUNNING, Move.SUCCEED): S.SUCCEEDED,
    (S.RUNNING, Move.FAIL): S.FAILED,
    (S.RUNNING, Move.RETRY): S.PENDING,
    (S.RUNNING, Move.CANCEL): S.CANCELLED,
    (S.RUNNING, Move.PREEMPT): S.PREEMPTED,
    (S.PREEMPTED, Move.REQUEUE): S.PENDING,
    (S.PREEMPTED, Move.CANCEL): S.CANCELLED,
}
"""Every legal move. A short job may end before its start was reported, so STARTING can end."""

_RETRIED = frozenset(
    {
        EndCause.EXITED,
        EndCause.SIGNALLED,
        EndCause.OUT_OF_MEMORY,
        EndCause.CANNOT_START,
        EndCause.SUPERVISOR_LOST,
        EndCause.NODE_REBOOTED,
        EndCause.NODE_LOST,
        EndCause.EVICTED,
        EndCause.DELETED,
        EndCause.IMAGE_UNAVAILABLE,
        EndCause.STOPPED,
    }
)
"""Ends that another try can cure; a command that does not exist will not exist next time."""

REQUEUES_MAX = 5
"""Lost machines that one job survives. Source: default of Slurm's MaxBatchRequeue."""

REVOKED_KEPT_MAX = 20
"""Attempts kept that were taken back one after the other: no wait doubles as often."""

CANCELLED = Reason(ReasonCode.CANCELLED, "cancelled by its user")

_PIDS_SHOWN = 5

_LOST = frozenset(
    {
        EndCause.SUPERVISOR_LOST,
        EndCause.NODE_REBOOTED,
        EndCause.NODE_LOST,
        EndCause.EVICTED,
        EndCause.DELETED,
        EndCause.STOPPED,
    }
)
"""Not the job's doing. STOPPED, where nobody cancelled: the system shuts down, or logs out."""

_CODES = {
    EndCause.TIME_LIMIT: ReasonCode.TIME_LIMIT,
    EndCause.OUT_OF_MEMORY: ReasonCode.OUT_OF_MEMORY,
    EndCause.SIGNALLED: ReasonCode.SIGNALLED,
    EndCause.STOPPED: ReasonCode.SUPERVISOR_LOST,
    EndCause.NOT_FOUND: ReasonCode.COMMAND_NOT_FOUND,
    EndCause.NOT_EXECUTABLE: ReasonCode.NOT_EXECUTABLE,
    EndCause.WORKDIR_MISSING: ReasonCode.WORKDIR_MISSING,
    EndCause.CANNOT_START: ReasonCode.CANNOT_START,
    EndCause.SUPERVISOR_LOST: ReasonCode.SUPERVISOR_LOST,
    EndCause.NODE_REBOOTED: ReasonCode.NODE_REBOOTED,
    EndCause.NODE_LOST: ReasonCode.NODE_LOST,
    EndCause.EVICTED: ReasonCode.EVICTED,
    EndCause.DELETED: ReasonCode.POD_DELETED,
    EndCause.IMAGE_UNAVAILABLE: ReasonCode.IMAGE_UNAVAILABLE,
    EndCause.REVOKED: ReasonCode.PENDING_EVALUATION,
}


def advance(job: Job, move: Move, reason: Reason) -> Job:
    """The job after a move, with the reason for its new state.

    Raises:
        InvariantError: the table does not allow the move from the job's state.
    """
    after = TRANSITIONS.get((job.state, move))
    if after is None:
        story = tuple(
            f"attempt {a.number}: {a.outcome.cause if a.outcome else 'open'}" for a in job.attempts
        )
        raise InvariantError("legal history", f"{job.name} is {job.state}: no {move}", story)
    return replace(job, state=after, reason=reason)


def place(job: Job, placements: tuple[GroupPlacement, ...], why: str) -> Job:
    """The job with a new attempt that holds something; ``why`` there, in one sentence."""
    number = job.attempt + 1
    attempt = Attempt(number, placements=placements, placed_because=why)
    placed = advance(job, Move.PLACE, Reason(ReasonCode.STARTING, "is being started"))
    return replace(placed, attempt=number, placements=placements, attempts=(*job.attempts, attempt))


def start(job: Job, started_at_ms: int, enforcement: Enforcement) -> Job:
    """The job once its newest attempt runs: told again, only the attempt changes."""
    attempt = replace(job.attempts[-1], started_at_ms=started_at_ms, enforcement=enforcement)
    job = replace(job, attempts=(*job.attempts[:-1], attempt))
    if job.state is not JobState.STARTING:
        return job
    reason = Reason(ReasonCode.RUNNING, "runs")
    if job.reason is not None and job.reason.code is not ReasonCode.STARTING:
        reason = job.reason
    first = job.started_at_ms if job.started_at_ms is not None else started_at_ms
    return replace(advance(job, Move.START, reason), started_at_ms=first)


def judge(job: Job, outcome: Outcome) -> tuple[Move, Reason]:
    """What the end of an attempt makes of its job.

    Exit evidence wins over intent: a job that ended by itself with 0 has succeeded, also when
    somebody had asked to cancel it. Source: fault F26 of the reliability catalogue.
    """
    if outcome.cause is EndCause.EXITED and outcome.exit_code == 0:
        return Move.SUCCEED, Reason(ReasonCode.COMPLETED, "ended with exit code 0")
    if job.cancel_requested:
        return Move.CANCEL, CANCELLED
    reason = _reason_of(outcome)
    if outcome.cause is EndCause.REVOKED:
        return Move.REVOKE, reason
    has_retry = outcome.cause in _RETRIED and job.retries_used < job.spec.retries
    if is_requeued(job, outcome) or has_retry:
        return Move.RETRY, reason
    return Move.FAIL, reason


def close_attempt(job: Job, outcome: Outcome) -> tuple[Job, Move, Reason]:
    """The job with its newest attempt ended and what that uses up counted; what follows."""
    move, reason = judge(job, outcome)
    attempts = (*job.attempts[:-1], replace(job.attempts[-1], outcome=outcome))
    if move is Move.RETRY and is_requeued(job, outcome):
        job = replace(job, requeues_used=_count_requeues(job) + 1)
    elif move is Move.RETRY:
        job = replace(job, retries_used=job.retries_used + 1)
    job = replace(job, attempts=attempts)
    revoked = count_revoked(job)
    if revoked > REVOKED_KEPT_MAX:
        job = replace(job, attempts=(*attempts[:-revoked], *attempts[-REVOKED_KEPT_MAX:]))
    return job, move, reason


def end(job: Job, move: Move, reason: Reason, wall_ms: int) -> Job:
    """The job after its last move, holding nothing; it ended when its attempt did, else now."""
    last = job.attempts[-1].outcome if job.attempts else None
    if last is not None and job.state.is_placed and last.ended_at_ms:
        wall_ms = last.ended_at_ms
    return replace(advance(job, move, reason), placements=(), ended_at_ms=wall_ms)


def is_requeued(job: Job, outcome: Outcome) -> bool:
    """Whether the machine, not the job, failed, and the job asked to run again then: no retry used.

    Bounded, since a job can be what brings its machine down.
    """
    is_lost = job.spec.requeue and outcome.cause in _LOST
    return is_lost and _count_requeues(job) < REQUEUES_MAX


def _count_requeues(job: Job) -> int:
    """By the record's own count, since not all attempts are kept; older records have none."""
    lost = sum(a.outcome is not None and a.outcome.cause in _LOST for a in job.attempts)
    return max(job.requeues_used, lost)


def count_revoked(job: Job) -> int:
    """How many launches were taken back since something of the job ran."""
    causes = (a.outcome.cause if a.outcome else None for a in reversed(job.attempts))
    return len(list(takewhile(lambda cause: cause is EndCause.REVOKED, causes)))


def _reason_of(outcome: Outcome) -> Reason:
    code = _CODES.get(outcome.cause, ReasonCode.EXITED)
    message = outcome.message
    if outcome.cause is EndCause.STOPPED:
        message = "ended by the system and not by mlsched: a shutdown, a logout, or a signal"
    if not message and outcome.cause is EndCause.EXITED:
        message = f"ended with exit code {outcome.exit_code}"
    elif not message and outcome.cause is EndCause.REVOKED:
        message = "its launch was taken back before anything ran"
    evidence: dict[str, str | int | list[str]] = {}
    if outcome.exit_code is not None:
        evidence["exit_code"] = outcome.exit_code
    if outcome.signal:
        evidence["signal"] = outcome.signal
    if outcome.failed_rank >= 0:
        evidence["failed_rank"] = outcome.failed_rank
    return Reason(code, message or str(outcome.cause).replace("_", " "), evidence)


def cannot_be_killed(pids: Sequence[int], message: str = "") -> Reason:
    """Why a job that was killed has not ended. Source: fault F24 of the reliability catalogue."""
    some = ", ".join(map(str, pids[:_PIDS_SHOWN])) + (", ..." if pids[_PIDS_SHOWN:] else "")
    text = f"was killed, but processes {some} do not end: it keeps what it holds until they do"
    if message:
        text = message
    elif len(pids) == 1:
        text = f"was killed, but process {some} does not end: it keeps what it holds until it does"
    return Reason(ReasonCode.CANNOT_BE_KILLED, text, {"processes": [str(pid) for pid in pids]})


def is_satisfied(condition: str, state: JobState) -> bool | None:
    """Whether a dependency in this state lets its dependent run.

    Returns:
        True: it may run. False: it never will. None: not decided yet.
    """
    if not state.is_ended:
        return None
    if condition == "any":
        return True
    return (state is JobState.SUCCEEDED) == (condition == "ok")
