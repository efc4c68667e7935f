"""Group commit: one thread takes all writes that wait, and makes them durable together.

A write is a function of the connection. Its future is done only after the COMMIT that holds it was
synced. A write that fails is rolled back alone; a COMMIT that fails fails all of its group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import apsw

from mlsched.adapters.store.schema import open_database
from mlsched.errors import ConflictError, MlschedError, StoreFullError, UnreachableError

GROUP_MAX = 512
"""Writes in one transaction: bounds the wait of the first, and the work that a failure undoes."""

Write = Callable[[apsw.Connection], Any]


class Writer:
    """Owner of the one connection that writes.

    Args:
        path: The database; opened (and migrated) in the writing thread.

    Raises:
        ConfigError, StoreFullError, UnreachableError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._queue: SimpleQueue[tuple[Write, Future[Any]] | None] = SimpleQueue()
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(path, opened), name="store-writer", daemon=True
        )
        self._thread.start()
        opened.result()

    def submit(self, write: Write) -> Future[Any]:
        """Queue a write; the future holds its result once it is durable."""
        future: Future[Any] = Future()
        self._queue.put((write, future))
        return future

    def close(self) -> None:
        """Finish what is queued, then close the connection."""
        self._queue.put(None)
        self._thread.join()

    def _run(self, path: Path, opened: Future[None]) -> None:
        try:
            connection = open_database(path)
        except MlschedError as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        open_ = True
        while open_:
            group = [self._queue.get()]
            while not self._queue.empty() and len(group) < GROUP_MAX:
                group.append(self._queue.get())
            open_ = None not in group
            _commit(connection, [item for item in group if item and _is_wanted(item[1])])
        connection.close()


def _is_wanted(future: Future[Any]) -> bool:
    """Whether somebody waits for a write; from now on it cannot be called off."""
    return future.set_running_or_notify_cancel()


def _commit(connection: apsw.Connection, group: list[tuple[Write, Future[Any]]]) -> None:
    done: list[tuple[Future[Any], Any]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for write, future in group:
            result, error = _one(connection, write)
            if error is None:
                done.append((future, result))
            else:
                future.set_exception(error)
        connection.execute("COMMIT")
    except apsw.Error as error:
        _abandon(connection)
        failure = _translate(error)
        for _, future in group:
            if not future.done():
                future.set_exception(failure)
        return
    for future, result in done:
        future.set_result(result)


def _one(connection: apsw.Connection, write: Write) -> tuple[Any, Exception | None]:
    connection.execute("SAVEPOINT one")
    result: Any = None
    failed: Exception | None = None
    try:
        result = write(connection)
    except apsw.ConstraintError as error:
        failed = ConflictError(f"the same thing is there already: {error}.")
    except apsw.Error:
        raise
    except Exception as error:  # noqa: BLE001 - told to whom it belongs; the thread must not end
        failed = error
    if failed is not None:
        connection.execute("ROLLBACK TO one")
    connection.execute("RELEASE one")
    return result, failed


def _abandon(connection: apsw.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _translate(error: apsw.Error) -> MlschedError:
    if isinstance(error, (apsw.FullError, apsw.IOError)):
        return StoreFullError(
            "the disk of the state directory is full: nothing was accepted.",
            "Free some space and try again; jobs that run go on.",
        )
    return UnreachableError(f"the database did not answer: {error}.")
