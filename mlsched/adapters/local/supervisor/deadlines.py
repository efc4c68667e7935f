"""When an attempt is warned, stopped and killed: arithmetic on monotonic seconds, no clock inside.

The wall clock takes no part, so a clock that is set back or forward changes nothing.
"""

from __future__ import annotations

DAEMON_GRACE_S = 5.0
"""Longest time that processes which outlive the ranks get between SIGTERM and SIGKILL."""


class Deadlines:
    """The instants of one attempt; None while one does not apply.

    Attributes:
        notice_at: When the early notice goes out.
        limit_at: When the time limit is reached.
        kill_at: When everything that still lives is killed.
    """

    def __init__(self) -> None:
        self.notice_at: float | None = None
        self.limit_at: float | None = None
        self.kill_at: float | None = None

    def start(self, now: float, time_limit_s: float, before_end_s: float | None) -> None:
        """Set the limit of an attempt that started at ``now``; 0 means no limit.

        A notice that would be due before the start is due at once.
        """
        if time_limit_s:
            self.limit_at = now + time_limit_s
            if before_end_s is not None:
                self.notice_at = max(now, self.limit_at - before_end_s)

    def stop(self, now: float, grace_s: float) -> None:
        """The attempt was asked to end at ``now``; a later request can only shorten the grace."""
        self.notice_at = self.limit_at = None
        kill_at = now + grace_s
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)

    def clean(self, now: float, grace_s: float) -> None:
        """Only processes that outlive the ranks are left at ``now``."""
        self.stop(now, min(grace_s, DAEMON_GRACE_S))

    def next(self) -> float | None:
        """The earliest instant that is still to come."""
        instants = (self.notice_at, self.limit_at, self.kill_at)
        return min((instant for instant in instants if instant is not None), default=None)
