"""Doing a write until the API server decides: again after no answer, too many, or its trouble."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mlsched.adapters.kubernetes.apis import ApiError, NoAnswerError

DELAY_S_MIN, DELAY_S_MAX = 0.05, 5.0
"""Between two tries; doubles, with jitter. A Retry-After is honoured."""

REFUSED_S = 5.0
"""Before a write is tried again that was refused: by missing rights, or an admission policy."""

HTTP_UNAUTHORIZED = 401
"""Our own credentials are not taken, or not any more: no fault of what is asked for."""

R = TypeVar("R")


async def insist(
    act: Callable[[], Awaitable[R]], on_problem: Callable[[str], None] = lambda line: None
) -> R:
    """The answer to a write that may be done twice: one with a fixed name, version or uid.

    Raises:
        ApiError: the API server refused it for good.
    """
    delay_s = DELAY_S_MIN
    while True:
        after_s = 0.0
        try:
            return await act()
        except ApiError as error:
            if not (error.is_temporary or error.code == HTTP_UNAUTHORIZED):
                raise
            after_s = error.retry_after_s or 0.0
            on_problem(str(error))
        except NoAnswerError as error:
            on_problem(error.message)
        await asyncio.sleep(max(after_s, delay_s * random.uniform(0.5, 1)))
        delay_s = min(2 * delay_s, DELAY_S_MAX)
