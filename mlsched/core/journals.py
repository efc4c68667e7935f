"""What changed, in order, for readers that each remember how far they have read."""

from __future__ import annotations

from collections.abc import Collection

ENTRIES_MIN = 4_096


class Journal:
    """Names of changed things; old entries are dropped, and who comes too late starts anew.

    Args:
        entries_max: How many entries are kept at least half of.
    """

    def __init__(self, entries_max: int = ENTRIES_MIN) -> None:
        self.entries_max = entries_max
        self._entries: list[str] = []
        self._dropped = 0

    @property
    def position(self) -> int:
        """Where a reader that has read everything stands."""
        return self._dropped + len(self._entries)

    def add(self, name: str) -> None:
        """Note a change; O(1) amortized."""
        self._entries.append(name)
        if len(self._entries) > self.entries_max:
            half = len(self._entries) // 2
            del self._entries[:half]
            self._dropped += half

    def since(self, position: int) -> Collection[str] | None:
        """What changed behind a position, each once; None when entries behind it were dropped."""
        if position < self._dropped:
            return None
        behind = self._entries[position - self._dropped :]
        return behind if len(behind) < 2 else dict.fromkeys(behind)
