"""Intents that the controller sends out. Each is idempotent; its result comes back as an event.

``SaveJob`` commands of a step are durable before any other command of that step is carried out:
intent before effect, evidence before a final state.
"""

from __future__ import annotations

from msgspec import Struct

from mlsched.model.jobs import Job


class SaveJob(Struct, frozen=True):
    """Make this version of the record durable."""

    job: Job


class LaunchAttempt(Struct, frozen=True):
    """Start ``job.attempt`` where ``job.placements`` says."""

    job: Job


class StopAttempt(Struct, frozen=True):
    """End an attempt: signal, ``grace_s`` seconds, then SIGKILL to the whole tree."""

    job_id: str
    attempt: int
    grace_s: int


Command = SaveJob | LaunchAttempt | StopAttempt


class Step(Struct, frozen=True):
    """What one step of the controller decided."""

    commands: tuple[Command, ...] = ()
    wake_at_ms: int | None = None
    """Monotonic instant of the next step if no event comes before; None: no need."""
