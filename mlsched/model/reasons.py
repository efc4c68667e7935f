"""Why a job is where it is, as a value with a stable code.

The codes are a contract: scripts read them from ``-o json``, and Kubernetes conditions will carry
the same words. Where Kueue has a word for the same thing, its spelling is used.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class ReasonCode(StrEnum):
    """Stable words; of several that hold, the one that stands first here is shown."""

    HELD = "Held"
    MISCONFIGURED = "Misconfigured"
    DEPENDENCY_FAILED = "DependencyFailed"
    DEPENDENCY_PENDING = "DependencyPending"
    RETRY_BACKOFF = "RetryBackoff"
    NEVER_FITS = "NeverFits"
    ARRAY_THROTTLED = "ArrayThrottled"
    DEVICES_UNHEALTHY = "DevicesUnhealthy"
    NODES_UNAVAILABLE = "NodesUnavailable"
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    FRAGMENTED = "Fragmented"
    LOWER_PRIORITY = "LowerPriority"
    PENDING_EVALUATION = "PendingEvaluation"
    STARTING = "Starting"
    RUNNING = "Running"
    CANCELLING = "Cancelling"
    CANNOT_BE_KILLED = "CannotBeKilled"
    COMPLETED = "Completed"
    EXITED = "ExitedWithError"
    SIGNALLED = "KilledBySignal"
    COMMAND_NOT_FOUND = "CommandNotFound"
    NOT_EXECUTABLE = "NotExecutable"
    WORKDIR_MISSING = "WorkdirMissing"
    CANNOT_START = "CannotStart"
    TIME_LIMIT = "TimeLimitExceeded"
    OUT_OF_MEMORY = "OutOfMemory"
    RANK_FAILED = "RankFailed"
    SUPERVISOR_LOST = "SupervisorLost"
    NODE_REBOOTED = "NodeRebooted"
    NODE_LOST = "NodeLost"
    EVICTED = "Evicted"
    POD_DELETED = "PodDeleted"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    CANCELLED = "CancelledByUser"
    PREEMPTED = "Preempted"


class Reason(Struct, frozen=True):
    """One reason: the word for programs, a sentence for people, and numbers as evidence."""

    code: ReasonCode
    message: str
    evidence: dict[str, str | int | list[str]] = {}
    """Facts behind the sentence: asked, free, total, the jobs that hold what is waited for."""
