"""What the driver needs from the world, as small protocols. Adapters and `sim` implement them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mlsched.model.events import Instant
from mlsched.model.jobs import Job


class Clock(Protocol):
    """Both clocks at once."""

    def now(self) -> Instant:
        """The present instant."""
        ...


class JobStore(Protocol):
    """The durable record of jobs."""

    async def save(self, jobs: Iterable[Job]) -> None:
        """Make new versions of known jobs durable, all or none.

        Raises:
            TemporaryError: not now; the caller keeps them and tries again.
        """
        ...


class Actuator(Protocol):
    """Starts and stops attempts. What comes of it arrives as events, never as a return value.

    Every method is idempotent: the driver may call it again after a restart.
    """

    async def launch(self, job: Job) -> None:
        """Start ``job.attempt``; at most once, however often it is called."""
        ...

    async def adopt(self, job: Job) -> None:
        """Find what became of an attempt that an earlier process launched, and watch it."""
        ...

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        """Ask an attempt to end: signal, grace, then force."""
        ...
