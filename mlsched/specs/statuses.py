"""The status of an MLJob as Kubernetes keeps it: the types that `records` fills and reads.

Times are RFC 3339 with milliseconds.
"""

from __future__ import annotations

from msgspec import Struct

from mlsched.model.jobs import JobState

ATTEMPTS_KEPT_MAX = 20
"""Attempts in one status: an object in etcd has 1.5 MiB at most, and all in it is written again."""


class Condition(Struct, frozen=True, rename="camel"):
    """One condition, as all Kubernetes objects have them."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str
    observed_generation: int = 0


class GroupStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Where one node group is, and what it holds there."""

    node: str
    milli_cpus: int = 0
    memory_bytes: int = 0
    devices: tuple[str, ...] = ()


class AttemptStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One try; the keys from `cause` on are there once it has ended."""

    number: int
    started_at: str = ""
    nodes: tuple[str, ...] = ()
    placed_because: str = ""
    ended_at: str = ""
    cause: str = ""
    exit_code: int | None = None
    signal: int = 0
    failed_rank: int = -1
    message: str = ""
    run_ms: int = 0


class JobRecord(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What is kept of one job, or of one element of an array."""

    state: JobState
    reason: str = ""
    message: str = ""
    evidence: dict[str, str | int | list[str]] = {}
    attempt: int = 0
    retries_used: int = 0
    requeues_used: int = 0
    started_at: str = ""
    ended_at: str = ""
    exit_code: int | None = None
    cancel_requested: bool = False
    cancel_grace_seconds: int | None = None
    placements: tuple[GroupStatus, ...] = ()
    attempts: tuple[AttemptStatus, ...] = ()


class ElementStatus(JobRecord, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One element of an array; elements that only wait are left out."""

    index: int


class JobStatus(JobRecord, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The status of one MLJob."""

    nodes: tuple[str, ...] = ()
    gpus: int = 0
    """GPUs that are asked for, of all groups: a column for people."""
    conditions: tuple[Condition, ...] = ()
    elements: tuple[ElementStatus, ...] = ()
    observed_generation: int = 0
    epoch: int = 0
    """How often the lease had changed hands when this was written: an older writer must stop."""
