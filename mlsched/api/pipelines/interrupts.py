"""Ctrl-C and SIGTERM during a run: the first one stops it cleanly, the second one at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns the first signal into a KeyboardInterrupt; a context manager of the main thread.

    Args:
        on_first: Called in the handler, before the exception.
        on_second: Called in the handler; then the process exits at once, with 128 + signal.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self.number = 0
        """The signal that came; 0 for none."""
        self._on_first = on_first
        self._on_second = on_second
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """What a shell reports of a command that this signal ended."""
        return 128 + (self.number or signal.SIGINT)

    def __enter__(self) -> Self:
        """From now on; what was ignored stays ignored, as ``nohup`` wants it."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As it was before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self._on_second()
            os._exit(128 + number)
        self.number = number
        self._on_first()
        raise KeyboardInterrupt
