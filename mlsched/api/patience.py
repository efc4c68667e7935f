"""How long whoever follows something puts up with a server that is gone."""

from __future__ import annotations

import time

TROUBLE_S_MAX = 60.0
"""A command gives up then: restarts take less."""


class Patience:
    """Counts from the first failure after an answer, however long it was quiet before."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def renew(self) -> None:
        """There was an answer."""
        self._since_s = None

    def is_lost(self) -> bool:
        """There was none; whether that is so for too long."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s > TROUBLE_S_MAX
