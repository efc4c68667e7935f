"""Records every NVML call of a reading, and plays it back on another machine.

A proxy stands where the binding keeps its library (``pynvml.nvmlLib``). Recording, it passes calls
on and keeps name, arguments, return code and the bytes that came back; playing, it answers from
them. Handles are raw pointers and become stable names. `mlsched.adapters.nvml.scrubbing` takes out
what identifies a machine before anything is written.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from msgspec import Struct, field

from mlsched.adapters.nvml.hosts import Host

FORMAT = "mlsched-nvml-recording/1"
NULL = "null"
_TIMEOUT = 10
_REFERENCE = type(ctypes.byref(ctypes.c_int()))
_POINTER: Any = ctypes.POINTER(ctypes.c_int).__mro__[1]
_SIMPLE: Any = ctypes.c_int.__mro__[1]
_HANDLE_BASE = 0x1000
_COUNTED = "RunningProcesses"
COUNT_MAX = 1 << 16
"""Of processes: the binding allocates twice what the driver says."""


class Output(Struct, frozen=True, omit_defaults=True):
    """What one argument held after a call."""

    size_bytes: int = 0
    data_hex: str = ""
    """Without zeros at the end."""
    handle: str = ""


class Answer(Struct, omit_defaults=True):
    """One call's return."""

    code: int | None = None
    """None: it did not return."""
    text: str | None = None
    """For the one function that returns a text."""
    outputs: list[Output | None] = []


class Recording(Struct):
    """All calls of one reading, in the order of each kind."""

    format: str = FORMAT
    taken_at_ms: int = 0
    version: str = ""
    """Of mlsched."""
    binding: str = ""
    calls: dict[str, dict[str, list[Answer]]] = field(default_factory=dict)
    """By function, then by arguments: counts and version words that go in are part of them."""
    files: dict[str, str | None] = field(default_factory=dict)
    """Small files of the kernel that were read."""


class UnrecordedError(LookupError):
    """The recording has the function, and not with these arguments."""


class Library(Protocol):
    """What the binding looks up functions in."""

    def __getattr__(self, name: str) -> Any:
        """A function; AttributeError when this driver does not have it."""


class Function:
    """Stands for one C function. The binding sets ``restype`` on one of them."""

    restype: Any = ctypes.c_int

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __call__(self, *args: Any) -> Any:
        """Call it as the binding does."""
        return self._answer(self, args)


class Recorder:
    """The library, with a memory.

    Args:
        library: The real one.
        recording: Filled call by call.
    """

    def __init__(self, library: Library, recording: Recording) -> None:
        self._library = library
        self._recording = recording
        self._handles: dict[int, str] = {}

    def __getattr__(self, name: str) -> Function:
        real = getattr(self._library, name)

        def answer(function: Function, args: tuple[Any, ...]) -> Any:
            kept = Answer()
            key = " ".join(_describe(arg, self._name) for arg in args)
            self._recording.calls.setdefault(name, {}).setdefault(key, []).append(kept)
            real.restype = function.restype
            returned = real(*args)
            kept.outputs = [_output(arg, self._name) for arg in args]
            if isinstance(returned, bytes):
                kept.text = returned.decode("utf-8", "replace")
            kept.code = 0 if isinstance(returned, bytes) else int(returned or 0)
            return returned

        return Function(answer)

    def _name(self, address: int) -> str:
        if not address:
            return NULL
        return self._handles.setdefault(address, f"handle-{len(self._handles) + 1}")


class Player:
    """A library that answers from a recording.

    Args:
        recording: May come from anywhere: sizes are checked before anything is copied.
    """

    def __init__(self, recording: Recording) -> None:
        self._calls = recording.calls
        self._positions: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._names: dict[int, str] = {}
        self._addresses: dict[str, int] = {}

    def __getattr__(self, name: str) -> Function:
        if name not in self._calls:
            raise AttributeError(name)
        known = self._calls[name]

        def answer(function: Function, args: tuple[Any, ...]) -> Any:
            key = " ".join(_describe(arg, self._name) for arg in args)
            if not known.get(key):
                raise UnrecordedError(f"not in this recording: {name}({key})"[:200])
            position = self._positions[name, key]
            self._positions[name, key] += 1
            kept = known[key][min(position, len(known[key]) - 1)]
            return self._play(kept, args, counts=_COUNTED in name)

        return Function(answer)

    def _play(self, kept: Answer, args: tuple[Any, ...], *, counts: bool) -> Any:
        for arg, output in zip(args, kept.outputs, strict=False):
            if output is not None:
                self._restore(arg, output)
            if counts and _claims_too_much(_target(arg)):
                raise UnrecordedError("the recording is damaged: a count that cannot be")
        if kept.text is not None:
            return kept.text.encode()
        return _TIMEOUT if kept.code is None else kept.code

    def _restore(self, arg: Any, output: Output) -> None:
        target = _target(arg)
        data = bytes.fromhex(output.data_hex)
        if output.handle:
            data = self._address(output.handle).to_bytes(ctypes.sizeof(ctypes.c_void_p), "little")
        if target is None or len(data) > ctypes.sizeof(target):
            raise UnrecordedError("the recording is damaged: an output does not fit its argument")
        ctypes.memset(ctypes.addressof(target), 0, ctypes.sizeof(target))
        ctypes.memmove(ctypes.addressof(target), data, len(data))

    def _name(self, address: int) -> str:
        return self._names.get(address, NULL)

    def _address(self, name: str) -> int:
        """A pointer that is only ever compared, never followed."""
        if name == NULL:
            return 0
        if name not in self._addresses:
            address = _HANDLE_BASE * (len(self._addresses) + 1)
            self._addresses[name], self._names[address] = address, name
        return self._addresses[name]


class RecordingHost:
    """The machine's files, with a memory."""

    def __init__(self, host: Host, recording: Recording) -> None:
        self._host = host
        self._recording = recording

    def read_text(self, path: str) -> str | None:
        """What a file says."""
        return self._recording.files.setdefault(path, self._host.read_text(path))


class PlayedHost:
    """Files as they were on the recorded machine."""

    def __init__(self, recording: Recording) -> None:
        self._files = recording.files

    def read_text(self, path: str) -> str | None:
        """What a file said."""
        return self._files.get(path)


class StandingClock:
    """The moment of the recording: how long a call took there is not known here."""

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def now_ms(self) -> int:
        """Unix time."""
        return self._at_ms

    def tick_us(self) -> int:
        """A monotonic count."""
        return 0


@contextmanager
def installed(nvml: Any, library: Any) -> Iterator[None]:
    """Put a library where the binding looks, without the functions that it remembers."""
    before, cache = nvml.nvmlLib, dict(nvml._nvmlGetFunctionPointer_cache)
    nvml._nvmlGetFunctionPointer_cache.clear()
    nvml.nvmlLib = library
    try:
        yield
    finally:
        nvml.nvmlLib = before
        nvml._nvmlGetFunctionPointer_cache.clear()
        nvml._nvmlGetFunctionPointer_cache.update(cache)


def _target(arg: Any) -> Any:
    """The memory that a call can write to through an argument; None for plain values."""
    if isinstance(arg, _REFERENCE):
        return arg._obj  # type: ignore[attr-defined]
    if isinstance(arg, (ctypes.Array, ctypes.Structure)):
        return arg
    return None


def _claims_too_much(target: Any) -> bool:
    return isinstance(target, ctypes.c_uint) and target.value > COUNT_MAX


def _is_handle(target: Any) -> bool:
    return isinstance(target, _POINTER)


def _describe(arg: Any, name: Any) -> str:
    """An argument as part of the key: scalars, handles, and the bytes that go in."""
    if arg is None:
        return NULL
    if _is_handle(arg):
        return str(name(ctypes.cast(arg, ctypes.c_void_p).value or 0))
    target = _target(arg)
    if target is None:
        return str(arg.value if isinstance(arg, _SIMPLE) else arg)
    if _is_handle(target):
        return "out"
    data = _bytes(target)
    return f"{len(data)}:{data.rstrip(bytes(1)).hex()}"


def _output(arg: Any, name: Any) -> Output | None:
    target = _target(arg)
    if target is None:
        return None
    if _is_handle(target):
        return Output(handle=name(ctypes.cast(target, ctypes.c_void_p).value or 0))
    data = _bytes(target)
    return Output(len(data), data.rstrip(bytes(1)).hex())


def _bytes(target: Any) -> bytes:
    return ctypes.string_at(ctypes.addressof(target), ctypes.sizeof(target))
