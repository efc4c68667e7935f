"""The one way to NVML: a call becomes a `Reading`, whatever the driver does.

A `Door` belongs to one subject (the system, or one GPU) and remembers its answers in their order.
So the same reading code can be run again over them when a call has hung: what was answered is
answered again, and the rest is refused.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from mlsched.model.inventory import Reading, ReadingStatus

R = TypeVar("R")

CODE_STATUS = {
    3: ReadingStatus.UNSUPPORTED,
    4: ReadingStatus.NO_PERMISSION,
    10: ReadingStatus.TRANSIENT,
    13: ReadingStatus.MISSING_SYMBOL,
    15: ReadingStatus.LOST,
    19: ReadingStatus.TRANSIENT,
    21: ReadingStatus.TRANSIENT,
    25: ReadingStatus.UNSUPPORTED,
    27: ReadingStatus.TRANSIENT,
    28: ReadingStatus.LOST,
    999: ReadingStatus.TRANSIENT,
}
"""NVML return codes with a meaning of their own; all others are errors. Source: nvml.h."""

_TEXTS = {
    1: "uninitialized",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    6: "not found",
    7: "insufficient size",
    8: "insufficient power",
    9: "driver not loaded",
    10: "timeout",
    11: "interrupt problem",
    12: "library not found",
    13: "function not found in this driver",
    14: "corrupted InfoROM",
    15: "GPU is lost",
    16: "reset required",
    17: "blocked by the operating system",
    18: "driver and library do not match",
    19: "in use",
    20: "out of memory",
    21: "no data",
    23: "insufficient resources",
    25: "version of the argument not known",
    26: "deprecated",
    27: "not ready",
    28: "GPU not found",
    29: "invalid state",
    999: "unknown error",
}


class NotReportedError(ValueError):
    """A call succeeded and its value means that there is none."""


class AbandonedError(BaseException):
    """Ends a thread whose subject was given up while one of its calls hung."""


class Clock(Protocol):
    """Where readings get their times from."""

    def now_ms(self) -> int:
        """Unix time."""

    def tick_us(self) -> int:
        """A monotonic count."""


class SystemClock:
    """The clock of this machine."""

    def now_ms(self) -> int:
        """Unix time."""
        return time.time_ns() // 1_000_000

    def tick_us(self) -> int:
        """A monotonic count."""
        return time.monotonic_ns() // 1000


def describe_code(code: int) -> str:
    """A short text for an NVML return code; never asks the driver for it."""
    return _TEXTS.get(code, f"NVML error {code}")


class Door:
    """Calls NVML for one subject.

    Args:
        nvml: The binding.
        clock: Gives the times of the readings.
        given: Answers to give again before anything is called.
    """

    def __init__(self, nvml: Any, clock: Clock, given: Sequence[Reading[Any]] = ()) -> None:
        self.nvml = nvml
        self.clock = clock
        self.answers: list[Reading[Any]] = []
        self.pending: tuple[str, float] | None = None
        """The call that runs now and its monotonic start; read by the thread that waits."""
        self.abandoned = threading.Event()
        self._given = deque(given)
        self._refusal: Reading[Any] | None = None
        self._failures = (
            nvml.NVMLError,
            nvml.NVMLLibraryMismatchError,
            ctypes.ArgumentError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        )

    def refuse(self, refusal: Reading[Any]) -> None:
        """Answer everything from here on as this one was answered, without asking."""
        self._refusal = refusal

    def call(self, name: str, *args: Any, then: Callable[[Any], R] | None = None) -> Reading[R]:
        """Ask one function of the binding.

        Args:
            name: Of the Python function, such as ``nvmlDeviceGetUUID``.
            args: Its arguments.
            then: Makes the value; may raise ValueError, as for bytes that are no text.
        """
        return self._answer(name, getattr(self.nvml, name, None), args, then)

    def text(self, name: str, *args: Any) -> Reading[str]:
        """Ask for a text. Bytes that are not UTF-8 are replaced, never an error."""
        function = getattr(self.nvml, name, None)
        return self._answer(name, getattr(function, "__wrapped__", function), args, to_text)

    def fill(self, name: str, handle: Any, struct: str) -> Reading[Any]:
        """Ask a function that fills a structure of the binding; gives the structure."""
        function, made = getattr(self.nvml, name, None), getattr(self.nvml, struct, None)
        if made is None or function is None:
            return self._answer(struct, None, (), None)

        def filled() -> Any:
            target = made()
            function(handle, ctypes.byref(target))
            return target

        return self._answer(name, filled, (), None)

    def _answer(self, name: str, function: Any, args: tuple[Any, ...], then: Any) -> Reading[Any]:
        if self._given:
            reading = self._given.popleft()
        elif self._refusal is not None:
            reading = replace(self._refusal, at_ms=self.clock.now_ms(), took_us=0)
        elif self.abandoned.is_set():
            raise AbandonedError
        elif function is None:
            reading = self.absent(ReadingStatus.MISSING_SYMBOL, f"this pynvml has no {name}")
        else:
            reading = self._ask(name, function, args, then)
        self.answers.append(reading)
        return reading

    def _ask(self, name: str, function: Any, args: tuple[Any, ...], then: Any) -> Reading[Any]:
        at_ms, started_us = self.clock.now_ms(), self.clock.tick_us()
        self.pending = (name, time.monotonic())
        value, status, code, detail = None, ReadingStatus.OK, 0, ""
        try:
            found = function(*args)
            value = found if then is None else then(found)
        except self._failures as error:
            status, code, detail = self._classify(error)
        finally:
            self.pending = None
        took_us = self.clock.tick_us() - started_us
        return Reading(value, status, at_ms, took_us, code, detail)

    def _classify(self, error: BaseException) -> tuple[ReadingStatus, int, str]:
        if isinstance(error, self.nvml.NVMLError):
            code = int(error.value)
            return CODE_STATUS.get(code, ReadingStatus.ERROR), code, describe_code(code)
        if isinstance(error, self.nvml.NVMLLibraryMismatchError):
            return ReadingStatus.MISSING_SYMBOL, 13, describe_code(13)
        if isinstance(error, NotReportedError):
            return ReadingStatus.UNSUPPORTED, 0, str(error)
        return ReadingStatus.ERROR, 0, f"{type(error).__name__}: {error}"[:200]

    def absent(self, status: ReadingStatus, detail: str, code: int = 0) -> Reading[Any]:
        """A reading without a value that needed no call."""
        return Reading(None, status, self.clock.now_ms(), 0, code, detail)


def to_text(value: object) -> str:
    """Text from what the driver gave; bytes that are not UTF-8 are replaced."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return "".join(one if one.isprintable() else "�" for one in text.strip("\0 "))


def derive(reading: Reading[Any], then: Callable[[Any], R]) -> Reading[R]:
    """Another value out of the same answer; without one the same failure."""
    if not reading.is_ok:
        return reading
    try:
        return replace(reading, value=then(reading.value))
    except NotReportedError as error:
        return replace(reading, value=None, status=ReadingStatus.UNSUPPORTED, detail=str(error))


def number(value: Any) -> int:
    """A number that is one: the driver's sentinels mean that there is none.

    Raises:
        NotReportedError: all bits of the value are set, or there is no value.
    """
    found = int(getattr(value, "value", value) if value is not None else -1)
    if found in (-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
        raise NotReportedError("the driver reports no value")
    return found
