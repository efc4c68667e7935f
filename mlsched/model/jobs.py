"""Jobs: the record of what was asked, what happened, and where it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from mlsched.model.reasons import Reason
from mlsched.model.resources import GroupNeed, need_of
from mlsched.model.specs import JobSpec


class JobState(StrEnum):
    """Where a job is in its life; ``core.lifecycle`` holds the table of legal moves."""

    PENDING = "PENDING"
    """Accepted and durable; waits for its turn, a dependency or devices."""
    STARTING = "STARTING"
    """Devices are given and the intent is durable; the process is being started."""
    RUNNING = "RUNNING"
    """The user's process was started."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    """Stopped in favour of another job; goes back to PENDING and uses no retry."""

    @property
    def is_ended(self) -> bool:
        """True for the states that a job never leaves by itself."""
        return self in ENDED_STATES

    @property
    def is_placed(self) -> bool:
        """True while the job holds devices, CPUs and memory."""
        return self in PLACED_STATES


ENDED_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
PLACED_STATES = frozenset({JobState.STARTING, JobState.RUNNING})


class GroupPlacement(Struct, frozen=True):
    """Where one node group of a gang was put, and the devices it alone may use."""

    node: str
    milli_cpus: int
    memory_bytes: int
    devices: tuple[str, ...] = ()
    """UUIDs, in the order in which the processes see them."""


class ResolvedDependency(Struct, frozen=True):
    """A dependency by unique id, so that a later job of the same name changes nothing."""

    job_id: str
    name: str
    condition: Literal["ok", "any", "fail"]


class ArrayMembership(Struct, frozen=True):
    """Which element of which array a job is."""

    array_id: str
    name: str
    """Name of the whole array; the element's own name is ``NAME[INDEX]``."""
    index: int
    size: int
    max_parallel: int = 0


class EndCause(StrEnum):
    """What ended an attempt, as the supervisor saw it."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    STOPPED = "stopped"
    """Somebody asked for it: cancel, or the supervisor got SIGTERM."""
    NOT_FOUND = "not_found"
    NOT_EXECUTABLE = "not_executable"
    WORKDIR_MISSING = "workdir_missing"
    CANNOT_START = "cannot_start"
    SUPERVISOR_LOST = "supervisor_lost"
    NODE_REBOOTED = "node_rebooted"
    NODE_LOST = "node_lost"
    """The node was removed, or declared out of service, with the attempt on it."""
    EVICTED = "evicted"
    """The node or the cluster ended a pod: pressure, a drain, a shutdown."""
    DELETED = "deleted"
    """Somebody else deleted a pod."""
    IMAGE_UNAVAILABLE = "image_unavailable"
    REVOKED = "revoked"
    """Never started: the launch was taken back before the supervisor claimed it."""


class Outcome(Struct, frozen=True, omit_defaults=True):
    """How an attempt ended; written durably by the supervisor before it leaves."""

    cause: EndCause
    exit_code: int | None = None
    """0-255 as a shell reports it (128+n for signal n); None when nothing ran to an exit."""
    signal: int = 0
    failed_rank: int = -1
    """The rank that failed first; -1 when none did."""
    message: str = ""
    ended_at_ms: int = 0
    """Wall clock, milliseconds since 1970."""
    run_ms: int = 0
    """By the monotonic clock, so that a stepped wall clock does not change it."""
    memory_peak_bytes: int = 0
    cpu_ms: int = 0
    output_bytes: int = 0
    """Output of all ranks that was written to their logs."""
    output_lost_bytes: int = 0
    """Output that could not be written, because the disk was full."""
    output_dropped_bytes: int = 0
    """Written output that rotation dropped to keep the bound on size."""


class Enforcement(Struct, frozen=True):
    """Which limits of a running attempt are enforced, and by what."""

    memory: str = "none"
    """``cgroup v2``, ``cgroup v1``, ``watch`` (the tree's memory is polled) or ``none``."""
    cpus: str = "none"


class Attempt(Struct, frozen=True, omit_defaults=True):
    """One try of a job. Of many the newest are kept, oldest first."""

    number: int
    started_at_ms: int | None = None
    outcome: Outcome | None = None
    placements: tuple[GroupPlacement, ...] = ()
    placed_because: str = ""
    """Why there, in one sentence."""
    enforcement: Enforcement = Enforcement()


class Job(Struct, frozen=True, omit_defaults=True):
    """The record of one job. ``seq`` orders jobs by acceptance, whatever the clock says."""

    id: str
    name: str
    seq: int
    spec: JobSpec
    submitted_at_ms: int
    state: JobState = JobState.PENDING
    reason: Reason | None = None
    """Why the job is where it is; for pending jobs the controller keeps a fresher one."""
    attempt: int = 0
    """Number of the newest attempt; 0 before the first. Only ever rises."""
    retries_used: int = 0
    requeues_used: int = 0
    """Lost machines that it survived without a retry."""
    placements: tuple[GroupPlacement, ...] = ()
    """Where the newest attempt is, while it holds anything; empty otherwise."""
    attempts: tuple[Attempt, ...] = ()
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    exit_code: int | None = None
    cancel_requested: bool = False
    cancel_grace_s: int | None = None
    after: tuple[ResolvedDependency, ...] = ()
    array: ArrayMembership | None = None
    idempotency_key: str = ""
    user: str = ""
    environment_id: str = ""
    """Which stored environment of the submitting shell the job runs with; spec.env goes on top."""
    namespace: str = ""
    """Where the names of its queues count, on Kubernetes; empty on one machine."""
    needs: tuple[GroupNeed, ...] = ()
    """One need a group, for gangs whose members differ; empty: all need what the spec says."""

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs that the job holds now; for an ended job those that it held last."""
        held = self.placements or (self.attempts[-1].placements if self.attempts else ())
        return tuple(uuid for group in held for uuid in group.devices)


def needs_of(job: Job) -> tuple[GroupNeed, ...]:
    """What each group of a job needs, in group order."""
    return job.needs or (need_of(job.spec),) * job.spec.nodes


def count_groups(job: Job) -> int:
    """How many groups a job has; ``len(needs_of(job))``, O(1)."""
    return len(job.needs) or job.spec.nodes


def count_gpus(job: Job) -> int:
    """GPUs that all groups of a job ask for together."""
    if job.needs:
        return sum(need.gpus for need in job.needs)
    return need_of(job.spec).gpus * job.spec.nodes


def queue_key(name: str, namespace: str = "") -> str:
    """A queue as paused queues are known by: ``train``, or ``team-a/train`` on Kubernetes."""
    return f"{namespace}/{name}" if namespace else name


def queue_keys(job: Job) -> tuple[str, ...]:
    """The queues that would do for a job, the best first."""
    return tuple(queue_key(name, job.namespace) for name in (job.spec.queue, *job.spec.queues))
