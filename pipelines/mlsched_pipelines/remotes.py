"""Engines whose calls run in other processes: what those of Dask and Ray share.

A remote engine keeps no Dask and no Ray in its own process. An agent process holds the client, and
the cluster too when the engine starts one:

    engine <- socket pair -> agent, client and cluster in a session of its own
       └── keeper, which ends that session and removes its folder when the engine is gone

So a dying cluster cannot end the caller's process (Ray's client exits with its cluster), settings
and warnings of the frameworks stay in the agent, Ctrl-C in a terminal reaches the caller alone, and
after any end of the caller, kill -9 too, the keeper leaves no process and no file.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self, cast

from msgspec import Struct

from mlsched.errors import ConfigError, PipelineError, UnreachableError
from mlsched.units import format_bytes
from mlsched_pipelines.engines import UNBOUNDED_BYTES, Call, Outcome, Ref
from mlsched_pipelines.pickling import pack
from mlsched_pipelines.workers import read_result

LOSSES_MAX = 3
"""Workers that may die under one call before it is given up."""


class Placer(Protocol):
    """A cluster as an agent sees it; what becomes of its calls is told by reports.

    ``("ended", number, bytes)`` of `mlsched_pipelines.workers.perform`;
    ``("lost", number, workers, why)``;
    ``("free", number)`` before it when the slot is free already;
    ``("failed", number, why)`` when the call could not be run; ``("gone", why)`` for the cluster.
    """

    slots: int
    about: str
    """What a message calls it, with its memory limit."""

    def put(self, ref: int, digest: str, data: bytes) -> None:
        """Make a pickled value reachable for workers."""

    def drop(self, ref: int) -> None:
        """Forget a value."""

    def start(self, number: int, ref: int, work: bytes) -> None:
        """Run `mlsched_pipelines.workers.perform` somewhere."""

    def close(self) -> None:
        """Leave a cluster that is not ours."""


Report = Callable[..., None]


class Peer(Placer, Protocol):
    """A placer together with the reports that come from it."""

    def receive(self, timeout_s: float | None) -> tuple[Any, ...] | None:
        """The next report; None when the time is over.

        Raises:
            EOFError: there will be none any more.
        """


def import_extra(module: str, extra: str) -> Any:
    """Import a package that only one feature needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"The engine {extra!r} needs the package {module!r}: {error}.",
            f"pip install 'mlsched[{extra}]'",
        ) from error


class _Open(Struct):
    """A call that has not ended."""

    task_id: str
    ref: _Held
    work: bytes
    losses: int = 0


class _Held:
    """A shared value by its number; dropped on the cluster when nobody holds this any more."""

    def __init__(self, number: int) -> None:
        self.number = number


class RemoteEngine:
    """An engine whose calls run in other processes, through a `Peer`.

    At most ``slots`` calls are with the cluster; the others wait here, where they can be cancelled
    for sure. A call whose worker dies is started again, `LOSSES_MAX` times at most.
    """

    def __init__(
        self, peer: Peer, calls_max: int | None = None, worker_memory_max_bytes: int | None = None
    ) -> None:
        self.slots = min(peer.slots, calls_max or peer.slots)
        self.worker_memory_max_bytes = worker_memory_max_bytes or UNBOUNDED_BYTES
        self._peer = peer
        self._numbers = itertools.count()
        self._waiting: deque[int] = deque()
        self._open: dict[int, _Open] = {}
        self._freed: set[int] = set()
        self._ended: list[Outcome] = []
        self._dropped: deque[int] = deque()
        self._gone = ""
        self._closed = False

    def put_ref(self, value: Any) -> Ref:
        """Pickle a value once, and send it to the cluster once.

        Raises:
            PipelineError: it cannot be pickled.
        """
        try:
            data = pack(value)
        except Exception as error:
            raise PipelineError(f"A shared value cannot be pickled: {error}.") from error
        held = _Held(next(self._numbers))
        digest = blake2b(data, digest_size=16).hexdigest()
        self._tell(lambda: self._peer.put(held.number, digest, data))
        weakref.finalize(held, self._dropped.append, held.number).atexit = False
        return Ref(held)

    def submit(self, call: Call) -> None:
        """Start a call when a slot is free; a call that cannot be pickled ends with that error."""
        try:
            work = pack((call.function, call.argument))
        except Exception as error:  # noqa: BLE001
            told = PipelineError(f"The call {call.task_id} cannot be pickled: {error}.")
            self._ended.append(Outcome(call.task_id, error=told))
            return
        number = next(self._numbers)
        self._open[number] = _Open(call.task_id, cast(_Held, call.shared), work)
        self._waiting.append(number)
        self._fill()

    def wait_any(self, timeout_s: float | None = None) -> tuple[Outcome, ...]:
        """See `mlsched_pipelines.engines.Engine.wait_any`."""
        until = None if timeout_s is None else monotonic() + timeout_s
        while self._open and not self._ended:
            left = None if until is None else max(0.0, until - monotonic())
            if not self._receive(left):
                break
        while self._open and self._receive(0):
            pass
        ended, self._ended = tuple(self._ended), []
        return ended

    def cancel(self, task_id: str) -> None:
        """See `mlsched_pipelines.engines.Engine.cancel`."""
        for number in [n for n in self._waiting if self._open[n].task_id == task_id]:
            self._waiting.remove(number)
            del self._open[number]
            self._ended.append(Outcome(task_id, cancelled=True))

    def locality(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Nothing: what is near to a worker is not known."""
        return ()

    def close(self) -> None:
        """See `mlsched_pipelines.engines.Engine.close`."""
        self._stop(wait=True)

    def __enter__(self) -> Self:
        """The engine; its workers run already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; an interrupt or an exit does not wait for calls that run."""
        self._stop(wait=error is None or isinstance(error, Exception))

    def _stop(self, *, wait: bool) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for number in self._waiting:
                del self._open[number]
            self._waiting.clear()
            while wait and self._open:
                self._receive(None)
        finally:
            self._peer.close()

    def _fill(self) -> None:
        busy = len(self._open) - len(self._waiting) - len(self._freed)
        for _ in range(min(self.slots - busy, len(self._waiting))):
            self._start(self._waiting.popleft())

    def _start(self, number: int) -> None:
        call = self._open[number]
        self._tell(lambda: self._peer.start(number, call.ref.number, call.work))

    def _tell(self, send: Callable[[], None]) -> None:
        """Send something to the cluster, unless it is gone; a failure is read as a report later."""
        try:
            while self._dropped:
                self._peer.drop(self._dropped.popleft())
            if not self._gone:
                send()
                return
        except OSError as error:
            self._gone = self._gone or f"{self._peer.about} does not answer: {error}."
        self._end_all()

    def _receive(self, timeout_s: float | None) -> bool:
        """Take in one report; False when there was none in time."""
        try:
            report = self._peer.receive(timeout_s)
        except (EOFError, OSError):
            report = ("gone", f"{self._peer.about} is gone: its client ended.")
        if report is None:
            return False
        self._take(*report)
        self._fill()
        return True

    def _take(self, word: str, *told: Any) -> None:
        if word == "gone":
            self._gone = told[0]
            self._end_all()
        elif word == "free":
            self._freed.update(self._open.keys() & told)
        elif word == "ended":
            value, error, out, err = read_result(told[1])
            self._end(told[0], value, error)
            # Last, as a stream may refuse: the call has ended all the same.
            for stream, text in ((sys.stdout, out), (sys.stderr, err)):
                if stream is not None:  # as in a process that was started without it
                    stream.write(text)
        elif word == "failed":
            number, why = told
            self._end(number, None, PipelineError(f"A call could not be run: {why}"))
        elif told[0] in self._open:
            number, workers, why = told
            call = self._open[number]
            call.losses += workers
            self._freed.discard(number)
            if call.losses < LOSSES_MAX:
                self._start(number)
            else:
                self._end(number, None, _lost_error(call, self._peer.about, why))

    def _end(self, number: int, value: Any, error: BaseException | None) -> None:
        self._freed.discard(number)
        call = self._open.pop(number, None)
        if call is not None:
            self._ended.append(Outcome(call.task_id, value, error))

    def _end_all(self) -> None:
        hint = "Start the engine again; a run goes on from its finished tasks."
        self._waiting.clear()
        for number in list(self._open):
            self._end(number, None, UnreachableError(self._gone, hint))


def _lost_error(call: _Open, about: str, why: str) -> PipelineError:
    return PipelineError(
        f"Workers died {call.losses} times under the call {call.task_id} on {about}. "
        f"The likely cause is memory. The last one: {why}",
        "Give workers more memory or start fewer of them, or cut the input into smaller splits "
        "(split_bytes=...).",
    )


def describe_memory(workers: int, memory_max_bytes: int) -> str:
    """``2 workers of at most 6.3 GiB each``: for `Placer.about`."""
    return f"{workers} workers of at most {format_bytes(memory_max_bytes)} each"
