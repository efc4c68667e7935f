"""The side of a call in its worker: values are kept, exceptions packed, memory is bounded."""

from __future__ import annotations

import copyreg
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mlsched.errors import PipelineError
from mlsched.units import format_bytes
from mlsched_pipelines.pickling import pack, unpack

SHARED_VALUES_MAX = 4
"""Shared values that a worker process keeps unpickled; a run has two."""

WORKER_SETTINGS = "MLSCHED_WORKER"
"""Environment variable that carries `WorkerSettings` to the workers of our own clusters."""

SAID_BYTES_MAX = 64 << 10
"""What one call may print; the rest is counted only."""

_GUARD_EVERY_S = 0.05


class WorkerSettings(Struct, frozen=True):
    """What a worker of our own cluster is told, by `WORKER_SETTINGS`."""

    path: tuple[str, ...]
    memory_max_bytes: int


_encode_result = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(tuple[bytes, str, str]).decode
_decode_settings = msgspec.json.Decoder(WorkerSettings).decode
_values: dict[str, Any] = {}
_values_lock = threading.Lock()


def perform(digest: str, load: Callable[[], bytes], work: bytes) -> bytes:
    """The worker's side of a call: never raises what the user's function raises, but packs it.

    What it prints goes with the result where the worker is ours, so that it is seen; a cluster of
    others keeps it in its own logs.

    Args:
        digest: Of the pickled shared value; a process loads each value once.
        load: Fetches the pickled shared value; what it raises is the engine's trouble.
        work: ``pack((function, argument))``.

    Returns:
        For `read_result`.
    """
    if not _settle_worker():
        return _encode_result((_perform(digest, load, work), "", ""))
    out, err = _Heard(), _Heard()
    with redirect_stdout(out.writer()), redirect_stderr(err.writer()):
        packed = _perform(digest, load, work)
    return _encode_result((packed, out.text(), err.text()))


def read_result(data: bytes) -> tuple[Any, BaseException | None, str, str]:
    """What a call gave, what it raised, and what it printed on both streams."""
    packed, out, err = _decode_result(data)
    try:
        value, error = unpack(packed)
    except Exception as problem:  # noqa: BLE001
        value = None
        error = PipelineError(f"The result of a call cannot be loaded here: {problem}.")
    return value, error, out, err


class _Heard(io.BytesIO):
    """Keeps the beginning of what is written."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped_bytes = 0

    def writer(self) -> io.TextIOWrapper:
        """What takes the place of a stream of the process."""
        return io.TextIOWrapper(self, "utf-8", "backslashreplace", write_through=True)

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        kept = min(size, SAID_BYTES_MAX - self.tell())
        super().write(memoryview(data).cast("B")[:kept])
        self._dropped_bytes += size - kept
        return size

    def close(self) -> None:
        """Stay open: a handler of logging may keep the stream longer than its call lasts."""

    def text(self) -> str:
        """What is kept, and how much is not."""
        text = self.getvalue().decode(errors="replace")
        if self._dropped_bytes:
            text += f"\n[{format_bytes(self._dropped_bytes)} more were printed]\n"
        return text


def _perform(digest: str, load: Callable[[], bytes], work: bytes) -> bytes:
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
    try:
        pickling_support.install(error)
        for kind in _BY_ARGUMENTS:
            copyreg.pickle(kind, _reduce_by_arguments)  # type: ignore[arg-type]
        data = pack((None, error))
        unpack(data)
    except Exception:  # noqa: BLE001
        text = "".join(traceback.format_exception(error)).strip()
        told = PipelineError(
            f"A call raised a {type(error).__name__} that cannot be pickled.\n{text}"
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
def _settle_worker() -> bool:
    """Once a process: import what the caller would, and keep the bound on memory; is it ours?"""
    found = os.environ.get(WORKER_SETTINGS)
    if found is None:
        return False
    settings = _decode_settings(found)
    sys.path[:] = settings.path
    threading.Thread(target=_guard_memory, args=(settings.memory_max_bytes,), daemon=True).start()
    return True


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
