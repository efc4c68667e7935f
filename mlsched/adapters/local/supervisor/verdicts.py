"""Why an attempt ended: facts in the order in which they came, and what they amount to. No I/O.

What happened first decides the cause. Ranks that had all ended when a stop or a limit came have
ended by themselves. Ranks that end after they were signalled were stopped, with whatever exit code
they give: a handler that saves its state and exits 0 has not finished its work.
"""

from __future__ import annotations

from .signals import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE_CHARACTERS_MAX = 500

FAILED = "failed"
"""Ending the others because a rank failed: the rank's own end is the cause then."""


class StartError(Exception):
    """A rank could not be started.

    Attributes:
        cause: A value of ``EndCause``.
        exit_code: What a shell would report; None for none.
    """

    def __init__(self, cause: str, exit_code: int | None, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.exit_code = exit_code
        self.message = message


class Verdict:
    """Facts about the end of an attempt of so many ranks."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._cause = ""
        self._message = ""
        self._error: StartError | None = None
        self._failed = -1
        self._statuses: dict[int, int] = {}

    @property
    def have_all_ended(self) -> bool:
        """Whether every rank has ended."""
        return len(self._statuses) == self._size

    @property
    def has_error(self) -> bool:
        """Whether something could not be started."""
        return self._error is not None

    def stop(self, cause: str, message: str) -> None:
        """Everything is being ended from now on, for this cause unless one came before."""
        if not self._cause and not self.have_all_ended:
            self._cause = cause
            self._message = message

    def refuse(self, error: StartError, rank: int = -1) -> None:
        """Something could not be started."""
        if self._error is None and not self._cause:
            self._error = error
            self._failed = rank if self._failed < 0 else self._failed

    def end(self, rank: int, status: int) -> None:
        """A rank ended; ``status`` is negative for a signal."""
        self._statuses[rank] = status
        if status and self._failed < 0 and not self._cause:
            self._failed = rank

    def decide(self, out_of_memory: bool) -> dict[str, Any]:
        """Cause, exit code, signal, failed rank and message, as in ``Outcome``.

        Args:
            out_of_memory: The kernel killed a process for the bound on memory.
        """
        status = self._statuses.get(self._failed)
        if status is None:
            ended = self._statuses.values()
            status = next((one for one in ended if one), 0 if self.have_all_ended else None)
        number = -status if status is not None and status < 0 else 0
        exit_code = 128 + number if number else status
        cause, message = self._cause.replace(FAILED, ""), self._message
        if self._error is not None:
            cause, message = self._error.cause, self._error.message
            exit_code, number = self._error.exit_code, 0
        elif out_of_memory and self._failed >= 0:
            cause, message = "out_of_memory", ""
        elif not cause and number:
            cause, message = "signalled", f"killed by signal {number} ({signal_name(number)})"
        elif not cause:
            cause = "exited"
        if not message and cause == "out_of_memory":
            message = "used more memory than it asked for"
        return {
            "cause": cause,
            "exit_code": exit_code,
            "signal": number,
            "failed_rank": self._failed,
            "message": message[:MESSAGE_CHARACTERS_MAX],
        }
