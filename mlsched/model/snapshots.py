"""Everything that a decision may look at, at one instant, and what a decision is."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from mlsched.model.events import Instant
from mlsched.model.jobs import GroupPlacement, Job, JobState
from mlsched.model.reasons import Reason


class ClusterSnapshot(Struct, frozen=True):
    """Jobs, and what is known of them, at ``now``. The ledger goes beside it."""

    now: Instant
    candidates: tuple[Job, ...]
    """Pending jobs to decide on, in any order."""
    placed: Mapping[str, Job] = {}
    """Jobs that hold something, by id."""
    states: Mapping[str, JobState] = {}
    """States of the jobs and arrays that candidates depend on, by id."""
    array_running: Mapping[str, int] = {}
    """Elements of each array that hold something now."""
    backoff_until_ms: Mapping[str, int] = {}
    """Monotonic instant before which a job must not be tried again."""
    paused_queues: frozenset[str] = frozenset()
    """Queues whose jobs wait, by `mlsched.model.jobs.queue_key`."""


class Plan(Struct, frozen=True):
    """The result of a cycle: which jobs start where, and why each of the others does not."""

    placements: dict[str, tuple[GroupPlacement, ...]] = {}
    choices: dict[str, str] = {}
    """Why each job that starts was put where it is, in one sentence, by id."""
    reasons: dict[str, Reason] = {}
    blocked: str | None = None
    """Id of the first job, in policy order, that waits for room: nobody may delay it."""
