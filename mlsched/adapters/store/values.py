"""What goes in and out of the store beside jobs."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mlsched.model.jobs import Job


class Submission(Struct, frozen=True):
    """What `Store.accept` makes durable: one job, or the elements of one array.

    ``jobs`` come without ``seq``; their names are given in the same transaction.
    """

    jobs: tuple[Job, ...]
    name: str
    """The name that the user gave; empty when one is to be made from ``base``."""
    base: str
    environment: dict[str, str]
    idempotency_key: str = ""
    run: tuple[str, str, int] | None = None
    """(run id, schedule id, tick in ms) when a schedule submits: inserted in the same commit."""


class Accepted(Struct, frozen=True):
    """The durable jobs, and whether this call made them or an earlier one with the same key."""

    jobs: tuple[Job, ...]
    created: bool


class Schedule(Struct, frozen=True):
    """A stored schedule; ``last_tick_ms`` is the newest tick that was dealt with."""

    name: str
    id: str
    document: dict[str, Any]
    last_tick_ms: int
