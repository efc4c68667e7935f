"""The memory of a process tree over time, looked at as often as it is cheap."""

from __future__ import annotations

import os
import time

from .trees import descendants, estimate_memory_bytes, list_processes, measure_memory_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .limits import Limits

ENFORCE_S = 0.25
"""Between two looks while the bound is enforced by us."""

OBSERVE_S = 1.0
"""Between two looks otherwise: for kills by the kernel, and for the peak in reports."""

OBSERVE_S_MAX = 10.0
"""The peak of a job that has run for long is looked for less often."""

AGE_SHARE = 0.05
"""Part of its age that a job may go unlooked at, up to that bound."""

SHARE = 0.02
"""Largest part of one CPU that looking may cost; it is done less often where it costs more."""


class MemoryWatch:
    """Watches everything below this process.

    Attributes:
        next_at: Monotonic instant of the next look.
        peak_bytes: Largest amount that was seen, or heard of from ended processes.
    """

    def __init__(self, limits: Limits, bound_bytes: int) -> None:
        now = time.monotonic()
        self.peak_bytes = 0
        self._limits = limits
        self._bound_bytes = bound_bytes if limits.memory == "watch" else 0
        self._period_s = ENFORCE_S if self._bound_bytes else OBSERVE_S
        self._since = now
        self._measure_at = self.next_at = now + self._period_s

    def is_over(self, now: float) -> bool:
        """Look; True when the tree is over its bound, or the kernel has killed for it."""
        self.next_at = now + self._period_s
        used = self._measure(now) if now >= self._measure_at else 0
        if self._bound_bytes:
            return used > self._bound_bytes
        return self._limits.out_of_memory_kills() > 0

    def _measure(self, now: float) -> int:
        tree = descendants([os.getpid()], list_processes())
        used = estimate_memory_bytes(tree)
        if 0 < self._bound_bytes < used:
            used = measure_memory_bytes(tree)
        self.peak_bytes = max(self.peak_bytes, used)
        pause_s = self._period_s
        if not self._bound_bytes:
            pause_s = max(pause_s, min(OBSERVE_S_MAX, (now - self._since) * AGE_SHARE))
        cost_s = time.monotonic() - now
        self._measure_at = now + max(pause_s, cost_s / SHARE)
        return used
