"""Looking again and again, as ``ls -w`` and ``top`` do, though a server may be away for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mlsched.api.patience import Patience
from mlsched.errors import UnreachableError

T = TypeVar("T")


class Looks(Generic[T]):
    """Asks each time that `look` is called.

    Args:
        ask: Gives an answer.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._answers: list[T] = []
        self._patience = Patience()

    def look(self) -> T:
        """The newest answer; the one before where nobody answers now.

        Raises:
            UnreachableError: nobody ever answered, or not for a minute.
        """
        try:
            self._answers[:] = [self._ask()]
            self._patience.renew()
        except UnreachableError:
            if not self._answers or self._patience.is_lost():
                raise
        return self._answers[0]
