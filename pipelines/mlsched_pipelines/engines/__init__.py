"""The engine contract: an engine places calls on workers and tells how they ended, nothing else.

What is computed, in which pieces and how it is published is decided elsewhere, so all engines give
the same bits. An engine is a dozen lines around something that runs functions: threads here, Dask
futures and Ray tasks in their own modules. What every engine keeps is tested by one suite:

- A call submitted once ends once: in exactly one `Outcome`, also when it is cancelled.
- Outcomes come in any order. An exception in a call is an outcome, never an error of ``wait_any``.
- ``put_ref`` moves a value to the workers once; each call that names the reference sees that value.
- cloudpickle can pickle functions, references, arguments and results. Functions and classes of
  modules that are not installed go by value, so that workers run the code that the caller has; a
  module that such code names as a whole (``import helpers``) must be installed where workers are.
- ``locality`` is advice and may be empty; a call may run on any worker.
- A call may run twice when a worker is lost: tasks stand that, since their markers are exclusive.
- A call under which workers die again and again ends with a `PipelineError`; a user's exception is
  never taken for a lost worker and never tried again.
- A cluster that is gone gives each open call, and each later one, an `UnreachableError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NewType, Protocol, Self, runtime_checkable

from msgspec import Struct

Ref = NewType("Ref", object)
"""A value that workers can reach; opaque to all but the engine that made it."""

UNBOUNDED_BYTES = 1 << 60
"""Memory of workers whose bound is not known: this machine's says nothing about theirs."""


class Call(Struct, frozen=True):
    """One call of ``function(value of shared, argument)`` on some worker."""

    task_id: str
    function: Callable[[Any, Any], Any]
    shared: Ref
    argument: Any
    prefer: tuple[str, ...] = ()
    """Workers that have the input near, the nearest first; from `Engine.locality`."""


class Outcome(Struct, frozen=True):
    """How a call ended: with a value, an error, or cancelled before it began."""

    task_id: str
    value: Any = None
    error: BaseException | None = None
    cancelled: bool = False


@runtime_checkable
class Engine(Protocol):
    """Somewhere to run calls; used by one thread, as a context manager."""

    @property
    def slots(self) -> int:
        """Calls that run at once; a caller keeps about this many submitted, which bounds memory."""

    @property
    def worker_memory_max_bytes(self) -> int | None:
        """What one call may take in its worker; None where calls share what the run may take.

        `UNBOUNDED_BYTES` where workers are those of others and their bound is not known.
        """

    def put_ref(self, value: Any) -> Ref:
        """Make a value reachable for workers."""

    def submit(self, call: Call) -> None:
        """Start a call; returns at once."""

    def wait_any(self, timeout_s: float | None = None) -> tuple[Outcome, ...]:
        """The calls that ended since the last time, at least one unless the time is over.

        Returns at once with nothing when no call is under way.
        """

    def cancel(self, task_id: str) -> None:
        """Do not begin a call that has not begun; its outcome is ``cancelled``."""

    def locality(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Workers that have these files near; empty when that makes no difference."""

    def close(self) -> None:
        """Cancel what has not begun, wait for what runs, and free the workers."""

    def __enter__(self) -> Self:
        """The engine, ready for calls."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""


def count_cores() -> int:
    """Cores that this process may use; macOS does not tell, so all of them there."""
    tells = getattr(os, "sched_getaffinity", None)
    return len(tells(0)) if tells is not None else os.cpu_count() or 1
