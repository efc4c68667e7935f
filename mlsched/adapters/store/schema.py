"""Opening the database: version gate, pragmas, schema and its migrations.

Each migration is one transaction that also raises ``user_version``, so that a kill between two
statements leaves the old version whole.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from mlsched.errors import ConfigError, StoreFullError, UnreachableError

SQLITE_VERSION_MIN = (3, 51, 3)
"""First version without the WAL-reset bug, which can lose commits when two connections write and
checkpoint at once. Source: sqlite.org, release notes of 3.51.3."""

APPLICATION_ID = 0x6D6C7363
"""``mlsc``: tells `file` and us that this is our database."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            queue TEXT NOT NULL,
            array_id TEXT,
            idempotency_key TEXT UNIQUE,
            environment_id TEXT NOT NULL,
            submitted_at_ms INTEGER NOT NULL,
            ended_at_ms INTEGER,
            record BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX jobs_open ON jobs (seq) WHERE ended_at_ms IS NULL",
        "CREATE INDEX jobs_array ON jobs (array_id, state) WHERE array_id IS NOT NULL",
        """CREATE TABLE arrays (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            idempotency_key TEXT UNIQUE,
            size INTEGER NOT NULL
        ) STRICT""",
        "CREATE TABLE environments (id TEXT PRIMARY KEY, variables BLOB NOT NULL) STRICT",
        "CREATE TABLE counters (base TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
        """CREATE TABLE schedules (
            name TEXT PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            document BLOB NOT NULL,
            last_tick_ms INTEGER NOT NULL
        ) STRICT""",
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY,
            schedule_id TEXT NOT NULL,
            tick_ms INTEGER NOT NULL,
            job_id TEXT NOT NULL,
            UNIQUE (schedule_id, tick_ms)
        ) STRICT""",
    ),
)
"""Statements from each version to the next; the length is the schema version of this program."""


def open_database(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """Open (and for the writer create or migrate) the database.

    Raises:
        ConfigError: the linked SQLite is too old; the file is not ours, damaged, or newer than
            this program.
        StoreFullError: no room to create or migrate it.
    """
    _check_library()
    flags = (
        apsw.SQLITE_OPEN_READONLY
        if read_only
        else (apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    )
    try:
        connection = apsw.Connection(str(path), flags=flags)
        connection.set_busy_timeout(5000)
        if not read_only:
            _prepare(connection, path)
        return connection
    except apsw.FullError as error:
        raise StoreFullError(f"no room left for {path}.", "Free some space.") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise ConfigError(
            f"{path} is damaged or not a database of mlsched: {error}.",
            "It was left as it is. Move it away to start afresh; running jobs go on.",
        ) from error
    except apsw.Error as error:
        raise UnreachableError(f"cannot open {path}: {error}.") from error


def _check_library() -> None:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise ConfigError(
            f"SQLite {apsw.sqlite_lib_version()} is linked, and {needed} or newer is needed.",
            "Install the wheel of apsw, which brings its own SQLite.",
        )


def _prepare(connection: apsw.Connection, path: Path) -> None:
    found = int(str(connection.pragma("user_version")))
    if not found and connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        raise ConfigError(
            f"{path} is not a database of mlsched: it holds tables of somebody else.",
            "It was left as it is. Move it away to start afresh.",
        )
    if found > len(MIGRATIONS):
        raise ConfigError(
            f"{path} has schema version {found}, and this mlsched knows up to {len(MIGRATIONS)}.",
            "It was written by a newer mlsched: use that one. Nothing was changed.",
        )
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("foreign_keys", 1)
    for version in range(found, len(MIGRATIONS)):
        _migrate(connection, version)


def _migrate(connection: apsw.Connection, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
