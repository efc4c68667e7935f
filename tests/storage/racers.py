"""What processes do that race each other, in a module that imports little."""

from __future__ import annotations

import os
from typing import Any

from mlsched_pipelines.stores import open_store


def race(url: str, rounds: int, barrier: Any, results: Any) -> None:
    """Create every name at the same time as the others; tell which ones were created."""
    store = open_store(url)
    won = []
    for number in range(rounds):
        barrier.wait(60)
        if store.put_new(f"race/{number}", str(os.getpid()).encode()):
            won.append(number)
    results.put((os.getpid(), won))
