"""Runs reading code in a thread of its own and gives it up when a call does not return.

A hung NVML call cannot be interrupted, only left behind. What its subject had answered before
stays; the rest of its readings is transient and says which call hung.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mlsched.adapters.nvml.doors import AbandonedError, Door
from mlsched.model.inventory import HUNG, ReadingStatus

R = TypeVar("R")

_POLL_S = 0.02


class Guard:
    """Bounds the time of each call and of everything together.

    Args:
        call_s: How long one call may take.
        total_s: How long all may take, from now on.
    """

    def __init__(self, call_s: float, total_s: float) -> None:
        self._call_s = call_s
        self._end = time.monotonic() + total_s
        self.hung: list[str] = []
        """Calls that did not return, in their order."""

    def run(self, door: Door, read: Callable[[Door], R]) -> R:
        """The result of reading through the door, complete or cut short.

        `read` is called a second time after a hang, and must ask the same questions in the same
        order when it gets the same answers.
        """
        results: list[R] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                results.append(read(door))
            except AbandonedError:
                return
            except BaseException as error:  # noqa: BLE001 - raised again by the waiting thread
                failures.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        detail = self._wait(thread, door)
        if failures:
            raise failures[0]
        if results:
            return results[0]
        door.abandoned.set()
        return self._cut_short(door, read, detail)

    def _wait(self, thread: threading.Thread, door: Door) -> str:
        """Wait for the thread; returns why not longer, when it is still running."""
        while thread.is_alive():
            now = time.monotonic()
            pending = door.pending
            if pending is not None and now - pending[1] > self._call_s:
                self.hung.append(pending[0])
                return f"{pending[0]} did not return within {self._call_s:g} s"
            if now > self._end:
                name = pending[0] if pending else "it"
                return f"not read: {name} came too late for the deadline"
            thread.join(_POLL_S)
        return ""

    def _cut_short(self, door: Door, read: Callable[[Door], R], detail: str) -> R:
        again = Door(door.nvml, door.clock, tuple(door.answers))
        again.refuse(door.absent(ReadingStatus.TRANSIENT, detail, HUNG))
        result = read(again)
        door.answers[:] = again.answers
        return result
