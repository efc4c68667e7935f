"""Facts that the controller folds into its state. Adapters and the simulator send the same ones."""

from __future__ import annotations

from msgspec import Struct

from mlsched.model.jobs import Enforcement, Job, JobState, Outcome
from mlsched.model.nodes import Node


class Instant(Struct, frozen=True, order=True):
    """One moment on both clocks.

    Durations and deadlines use ``mono_ms``; ``wall_ms`` is for people only and may step back.
    """

    mono_ms: int
    wall_ms: int


class NodeObserved(Struct, frozen=True):
    """A node exists with this inventory; replaces what was known of it."""

    node: Node


class NodeLost(Struct, frozen=True):
    """A node is gone, with everything on it."""

    name: str


class JobSubmitted(Struct, frozen=True):
    """A job was accepted.

    ``ended`` holds the final states of dependencies that ended before.
    """

    job: Job
    ended: dict[str, JobState] = {}


class JobRestored(Struct, frozen=True):
    """A job as the store has it, sent once for each active job when the controller starts."""

    job: Job
    ended: dict[str, JobState] = {}


class CancelRequested(Struct, frozen=True):
    """Somebody wants the job to end. ``grace_s`` overrides the grace of its spec."""

    job_id: str
    grace_s: int | None = None


class JobWithdrawn(Struct, frozen=True):
    """The record of a job is gone: nothing is written of it any more, and what runs is stopped."""

    job_id: str


class QueueObserved(Struct, frozen=True):
    """A queue exists; a queue that nobody told of is open."""

    name: str
    paused: bool
    namespace: str = ""


class AttemptStarted(Struct, frozen=True):
    """The user's process of this attempt was started."""

    job_id: str
    attempt: int
    started_at_ms: int
    enforcement: Enforcement = Enforcement()


class AttemptStuck(Struct, frozen=True):
    """Processes of an attempt were killed and do not end: what it holds is not free."""

    job_id: str
    attempt: int
    pids: tuple[int, ...]
    message: str = ""
    """What does not end, where it is not processes of this machine."""


class AttemptEnded(Struct, frozen=True):
    """An attempt is over, with the evidence."""

    job_id: str
    attempt: int
    outcome: Outcome


class TimerFired(Struct, frozen=True):
    """The instant that the controller asked to be woken at has come."""


Event = (
    NodeObserved
    | NodeLost
    | JobSubmitted
    | JobRestored
    | CancelRequested
    | JobWithdrawn
    | QueueObserved
    | AttemptStarted
    | AttemptStuck
    | AttemptEnded
    | TimerFired
)
