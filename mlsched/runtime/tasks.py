"""Work that goes on by itself in the loop, of which no error is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class Tasks:
    """Coroutines that nobody needs to await.

    Args:
        on_problem: Takes one line for the log, of each that ended with an error.
        told: Errors that somebody else tells of.
    """

    def __init__(
        self,
        on_problem: Callable[[str], None] = lambda line: None,
        *,
        told: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._on_problem = on_problem
        self._told = told
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Let a coroutine go on by itself."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    async def wait(self) -> None:
        """Until all have ended, those too that begin meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop all of them, and what they begin meanwhile."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._told):
            name = getattr(task.get_coro(), "__qualname__", task.get_name())
            self._on_problem(f"{name} ended with an error: {error!r}")
