"""The thread that writes: one write that goes wrong is nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import apsw
import pytest

from mlsched.adapters.store.writers import Writer

TIMEOUT_S = 20


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "state.db")
    yield made
    made.close()


def count(writer: Writer, base: str) -> Future[Any]:
    return writer.submit(lambda c: c.execute("INSERT INTO counters VALUES (?, 1)", (base,)) and 1)


def bases(writer: Writer) -> list[str]:
    def read(connection: apsw.Connection) -> list[str]:
        return [
            str(base) for (base,) in connection.execute("SELECT base FROM counters ORDER BY base")
        ]

    return list(writer.submit(read).result(TIMEOUT_S))


def test_a_write_that_is_no_longer_wanted_keeps_no_other_from_its_answer(writer: Writer) -> None:
    begun, go = Event(), Event()
    first = writer.submit(lambda c: begun.set() or go.wait(TIMEOUT_S))
    assert begun.wait(TIMEOUT_S)
    first.cancel()
    unwanted = count(writer, "unwanted")
    unwanted.cancel()
    go.set()
    assert count(writer, "wanted").result(TIMEOUT_S) == 1
    assert bases(writer) == ["wanted"]


def test_a_bug_in_one_write_keeps_no_other_from_being_made(writer: Writer) -> None:
    def fail(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO counters VALUES ('half', 1)")
        raise ValueError("no such value")

    begun, go = Event(), Event()
    writer.submit(lambda c: begun.set() or go.wait(TIMEOUT_S))
    assert begun.wait(TIMEOUT_S)
    before, bad, after = count(writer, "before"), writer.submit(fail), count(writer, "after")
    go.set()
    with pytest.raises(ValueError, match="no such value"):
        bad.result(TIMEOUT_S)
    assert (before.result(TIMEOUT_S), after.result(TIMEOUT_S)) == (1, 1)
    assert bases(writer) == ["after", "before"]
