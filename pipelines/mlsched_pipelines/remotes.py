"""What the engines of other processes share: pickling, the worker's side, and an agent process.

A remote engine keeps no Dask and no Ray in its own process. An agent process holds the client, and
the cluster too when the engine starts one:

    engine <- socket pair -> agent, client and cluster in a session of its own
       └── keeper, which ends that session and removes its folder when the engine is gone

So a dying cluster cannot end the caller's process (Ray's client exits with its cluster), settings
and warnings of the frameworks stay in the agent, Ctrl-C in a terminal reaches the caller alone, and
after any end of the caller, kill -9 too, the keeper leaves no process and no file.
"""

from __future__ import annotations

import copyreg
import io
import itertools
import os
import pickle
import sys
import sysconfig
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from time import monotonic
from types import CodeType, FunctionType, ModuleType, TracebackType
from typing import Any, Protocol, Self, cast

import cloudpickle
import msgspec
from msgspec import Struct

from mlsched.errors import ConfigError, PipelineError, UnreachableError
from mlsched.units import format_bytes
from mlsched_pipelines.engines import Call, Outcome, Ref

LOSSES_MAX = 3
"""Workers that may die under one call before it is given up."""

SHARED_VALUES_MAX = 4
"""Shared values that a worker process keeps unpickled; a run has two."""

WORKER_SETTINGS = "MLSCHED_WORKER"
"""Environment variable that carries `WorkerSettings` to the workers of our own clusters."""

_GUARD_EVERY_S = 0.05


class Placer(Protocol):
    """A cluster as an agent sees it; what becomes of its calls is told by reports.

    ``("ended", number, bytes)`` of `perform`; ``("lost", number, workers, why)``;
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
        """Run `perform` somewhere."""

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


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles functions and classes of modules that are not installed by value.

    Structs cannot be made again from their parts, so these go by reference always.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.registered: list[ModuleType] = []

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, CodeType):
            # cloudpickle drops the file's name, which tracebacks need.
            make, parts = self.dispatch_table[CodeType](value)
            file = value.co_filename
            return make, tuple(file if part == "<dynamic-code>" else part for part in parts)
        if isinstance(value, (FunctionType, type)) and not isinstance(value, msgspec.StructMeta):
            name = getattr(value, "__module__", None) or ""
            module = sys.modules.get(name)
            known = cloudpickle.list_registry_pickle_by_value()
            if module is not None and not _is_installed(name) and name not in known:
                cloudpickle.register_pickle_by_value(module)
                self.registered.append(module)
        return super().reducer_override(value)


def pack(value: Any) -> bytes:
    """Pickle a value so that a worker with the same packages can load it."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(value)
    finally:
        for module in pickler.registered:
            cloudpickle.unregister_pickle_by_value(module)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """Load what `pack` made, in the user's own processes only."""
    return pickle.loads(data)  # noqa: S301


@cache
def _is_installed(name: str) -> bool:
    """Whether every worker has the module: ours, Python's own, or in a site-packages directory."""
    top = name.partition(".")[0]
    if top in {"mlsched", "mlsched_pipelines"} or top in sys.stdlib_module_names:
        return True
    modules = (sys.modules.get(name), sys.modules.get(top))
    file = next((found for m in modules if (found := getattr(m, "__file__", None))), None)
    if top == "__main__" or file is None:
        return False
    where = {Path(path).resolve() for key, path in sysconfig.get_paths().items() if "lib" in key}
    parents = Path(file).resolve().parents
    return any(p in where or p.name in {"site-packages", "dist-packages"} for p in parents)


class WorkerSettings(Struct, frozen=True):
    """What a worker of our own cluster is told, by `WORKER_SETTINGS`."""

    path: tuple[str, ...]
    memory_max_bytes: int


_values: dict[str, Any] = {}
_values_lock = threading.Lock()


def perform(digest: str, load: Callable[[], bytes], work: bytes) -> bytes:
    """The worker's side of a call: never raises what the user's function raises, but packs it.

    Args:
        digest: Of the pickled shared value; a process loads each value once.
        load: Fetches the pickled shared value; what it raises is the engine's trouble.
        work: ``pack((function, argument))``.
    """
    _settle_worker()
    with _values_lock:
        data = None if digest in _values else load()
        shared = _values.get(digest)
    try:
        function, argument = _loaded(work)
        value = function(shared if data is None else _keep_value(digest, data), argument)
    except BaseException as error:  # noqa: BLE001
        return _pack_error(error)
    try:
        return pack((value, None))
    except Exception as error:  # noqa: BLE001
        kind = type(value).__name__
        return _pack_error(PipelineError(f"A call gave a {kind} that cannot be pickled: {error}."))


def _keep_value(digest: str, data: bytes) -> Any:
    with _values_lock:
        if digest not in _values:
            _values[digest] = _loaded(data)
            while len(_values) > SHARED_VALUES_MAX:
                del _values[next(iter(_values))]
        return _values[digest]


def _loaded(data: bytes) -> Any:
    try:
        return unpack(data)
    except Exception as error:
        raise PipelineError(
            f"A worker cannot load what a call needs: {type(error).__name__}: {error}.",
            "Install its module where the workers are, or import functions by name (from helpers "
            "import f), so that they travel with the call. Structs must be in a module, not in a "
            "script or notebook.",
        ) from error


def _pack_error(error: BaseException) -> bytes:
    """An exception with its frames, causes and notes; as text when it does not survive pickling."""
    from tblib import pickling_support

    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next
    pickling_support.install(error)
    for kind in _BY_ARGUMENTS:
        copyreg.pickle(kind, _reduce_by_arguments)  # type: ignore[arg-type]
    try:
        data = pack((None, error))
        unpack(data)
    except Exception:  # noqa: BLE001
        text = "".join(traceback.format_exception(error)).strip()
        told = PipelineError(
            f"A call raised a {type(error).__name__} that cannot be pickled: {error}.\n{text}"
        )
        return pack((None, told))
    return data


_BY_ARGUMENTS = (SystemExit, StopIteration, SyntaxError, *UnicodeError.__subclasses__())
"""Classes whose attributes only their constructor sets, which tblib does not call."""


def _reduce_by_arguments(error: BaseException) -> tuple[Any, ...]:
    from tblib.pickling_support import unpickle_exception

    links = (error.__cause__, error.__traceback__, error.__context__, error.__suppress_context__)
    notes = getattr(error, "__notes__", None)
    return unpickle_exception, (type(error), error.args, *links, notes)


@cache
def _settle_worker() -> None:
    """Once a process: import what the caller would, and keep the bound on memory."""
    found = os.environ.get(WORKER_SETTINGS)
    if found is None:
        return
    settings = msgspec.json.decode(found, type=WorkerSettings)
    sys.path[:] = settings.path
    threading.Thread(target=_guard_memory, args=(settings.memory_max_bytes,), daemon=True).start()


def _guard_memory(memory_max_bytes: int) -> None:
    """End this process when it holds more memory than its share, before the kernel ends another."""
    page_bytes, pause = os.sysconf("SC_PAGE_SIZE"), threading.Event()
    try:
        with Path("/proc/self/statm").open("rb", buffering=0) as statm:
            while not pause.wait(_GUARD_EVERY_S):
                statm.seek(0)
                _, resident, shared, *_ = map(int, statm.read().split())
                if (resident - shared) * page_bytes > memory_max_bytes:
                    os.kill(os.getpid(), 9)
    except FileNotFoundError:
        return


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

    def __init__(self, peer: Peer, calls_max: int | None = None) -> None:
        self.slots = min(peer.slots, calls_max or peer.slots)
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
            self._end(told[0], *_value_or_error(told[1]))
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


def _value_or_error(data: bytes) -> tuple[Any, BaseException | None]:
    try:
        value, error = unpack(data)
    except Exception as problem:  # noqa: BLE001
        return None, PipelineError(f"The result of a call cannot be loaded here: {problem}.")
    return value, error


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
