"""What goes on by itself is told when it fails, and stopped when it must be."""

from __future__ import annotations

import asyncio

import pytest

from mlsched.runtime.tasks import Tasks


async def succeed() -> int:
    return 3


async def fail(error: Exception) -> None:
    raise error


def test_an_error_is_told_once_and_keeps_nothing_else() -> None:
    async def scenario() -> list[str]:
        told: list[str] = []
        tasks = Tasks(told.append, told=(KeyError,))
        tasks.begin(fail(ValueError("odd")))
        tasks.begin(fail(KeyError("told elsewhere")))
        assert await tasks.begin(succeed()) == 3
        await tasks.wait()
        assert len(tasks) == 0
        return told

    assert asyncio.run(scenario()) == ["fail ended with an error: ValueError('odd')"]


def test_who_awaits_one_gets_its_error() -> None:
    async def scenario() -> None:
        tasks = Tasks(lambda line: None)
        with pytest.raises(ValueError, match="odd"):
            await tasks.begin(fail(ValueError("odd")))

    asyncio.run(scenario())


def test_closing_stops_all_and_what_they_begin_meanwhile() -> None:
    async def scenario() -> list[str]:
        told: list[str] = []
        tasks, begun, hanging = Tasks(told.append), [], asyncio.Event()

        async def last() -> None:
            begun.append("last")
            await asyncio.Event().wait()

        async def hang() -> None:
            try:
                hanging.set()
                await asyncio.Event().wait()
            finally:
                tasks.begin(last())

        tasks.begin(hang())
        await hanging.wait()
        async with asyncio.timeout(5):
            await tasks.close()
        assert begun == ["last"]
        assert len(tasks) == 0
        return told

    assert asyncio.run(scenario()) == []
