"""Jobs as rows: the statements behind `Store`, each a plain function of a connection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import apsw
import msgspec
from msgspec.structs import replace

from mlsched.adapters.store.values import Submission
from mlsched.errors import ConfigError, ConflictError
from mlsched.model.jobs import Job, JobState

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Job)
_VARIABLES = msgspec.json.Decoder(dict[str, str])

_INSERT = (
    "INSERT INTO jobs (seq, id, name, state, queue, array_id, idempotency_key, environment_id,"
    " submitted_at_ms, ended_at_ms, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = "UPDATE jobs SET state = ?, ended_at_ms = ?, record = ? WHERE id = ?"
_WORST = {"SUCCEEDED": 0, "CANCELLED": 1, "FAILED": 2}
ID_PREFIX_MIN = 4
_AFTER_HEX = "g"
"""Sorts after every digit of an id, so that a range of the index finds what begins with a text."""


def accept(connection: apsw.Connection, submission: Submission) -> tuple[list[Job], bool]:
    """Insert a submission, or find what an earlier one with the same key made."""
    known = by_key(connection, submission.idempotency_key)
    if known:
        return known, False
    first = submission.jobs[0]
    name = _free_name(connection, submission.name, submission.base)
    environment_id = _put_environment(connection, submission.environment)
    if first.array is not None:
        key = submission.idempotency_key or None
        array = first.array
        connection.execute(
            "INSERT INTO arrays (id, name, idempotency_key, size) VALUES (?, ?, ?, ?)",
            (array.array_id, name, key, array.size),
        )
    seq = int(connection.execute("SELECT coalesce(max(seq), 0) FROM jobs").get)
    jobs = [
        _numbered(job, name, seq + offset, environment_id)
        for offset, job in enumerate(submission.jobs, 1)
    ]
    connection.executemany(_INSERT, (_row(job) for job in jobs))
    if submission.run is not None:
        connection.execute(
            "INSERT INTO runs (id, schedule_id, tick_ms, job_id) VALUES (?, ?, ?, ?)",
            (*submission.run, first.array.array_id if first.array else first.id),
        )
    return jobs, True


def _numbered(job: Job, name: str, seq: int, environment_id: str) -> Job:
    if job.array is None:
        return replace(job, name=name, seq=seq, environment_id=environment_id)
    return replace(
        job,
        name=f"{name}[{job.array.index}]",
        seq=seq,
        environment_id=environment_id,
        array=replace(job.array, name=name),
    )


def _row(job: Job) -> tuple[object, ...]:
    array_id = job.array.array_id if job.array else None
    key = job.idempotency_key or None if job.array is None else None
    return (
        job.seq,
        job.id,
        job.name,
        str(job.state),
        job.spec.queue,
        array_id,
        key,
        job.environment_id,
        job.submitted_at_ms,
        job.ended_at_ms,
        _ENCODER.encode(job),
    )


def by_key(connection: apsw.Connection, key: str) -> list[Job]:
    """What a submission with this key made; nothing for the empty key."""
    if not key:
        return []
    array = connection.execute("SELECT id FROM arrays WHERE idempotency_key = ?", (key,)).fetchone()
    if array is not None:
        return _jobs(connection, "WHERE array_id = ? ORDER BY seq", (array[0],))
    return _jobs(connection, "WHERE idempotency_key = ?", (key,))


_BASE_CHARACTERS_MAX = 63 - len("-9999999")
"""A name with its number must be one that can be submitted again."""


def _free_name(connection: apsw.Connection, name: str, base: str) -> str:
    if name and not _is_taken(connection, name):
        return name
    base = (name or base)[:_BASE_CHARACTERS_MAX].rstrip("-.")
    row = connection.execute("SELECT value FROM counters WHERE base = ?", (base,)).fetchone()
    value = int(row[0]) if row else (1 if name else 0)
    while True:
        value += 1
        if not _is_taken(connection, f"{base}-{value}"):
            break
    connection.execute(
        "INSERT INTO counters (base, value) VALUES (?, ?)"
        " ON CONFLICT (base) DO UPDATE SET value = excluded.value",
        (base, value),
    )
    return f"{base}-{value}"


def _is_taken(connection: apsw.Connection, name: str) -> bool:
    sql = "SELECT 1 FROM jobs WHERE name = ? UNION ALL SELECT 1 FROM arrays WHERE name = ?"
    return connection.execute(sql, (name, name)).fetchone() is not None


def _put_environment(connection: apsw.Connection, variables: dict[str, str]) -> str:
    encoded = msgspec.json.encode(dict(sorted(variables.items())))
    digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    connection.execute(
        "INSERT OR IGNORE INTO environments (id, variables) VALUES (?, ?)", (digest, encoded)
    )
    return digest


def save(connection: apsw.Connection, jobs: Sequence[Job]) -> None:
    """Update known jobs.

    Raises:
        ConflictError: one is not in the store.
    """
    for job in jobs:
        connection.execute(_UPDATE, (str(job.state), job.ended_at_ms, _ENCODER.encode(job), job.id))
        if connection.changes() != 1:
            raise ConflictError(f"{job.name} ({job.id}) is not in the store")


def open_jobs(connection: apsw.Connection) -> list[Job]:
    """Jobs that have not ended, in order of acceptance."""
    return _jobs(connection, "WHERE ended_at_ms IS NULL ORDER BY seq", ())


def ended_jobs(connection: apsw.Connection, limit: int) -> list[Job]:
    """The jobs that were accepted last among the ended ones, newest first."""
    return _jobs(connection, "WHERE ended_at_ms IS NOT NULL ORDER BY seq DESC LIMIT ?", (limit,))


def find(connection: apsw.Connection, text: str) -> list[Job]:
    """By name, id, array name or array id, then by the beginning of an id."""
    found = _jobs(connection, "WHERE name = ? OR id = ?", (text, text))
    if found:
        return found
    array = connection.execute(
        "SELECT id FROM arrays WHERE name = ? OR id = ?", (text, text)
    ).fetchone()
    if array is not None:
        return _jobs(connection, "WHERE array_id = ? ORDER BY seq", (array[0],))
    if len(text) < ID_PREFIX_MIN:
        return []
    where = "WHERE id >= ? AND id < ? LIMIT 2"
    found = _jobs(connection, where, (text, text + _AFTER_HEX))
    return found if len(found) == 1 else []


def final_states(connection: apsw.Connection, ids: Iterable[str]) -> dict[str, JobState]:
    """States of ended jobs and of wholly ended arrays, by id; what is still open is left out."""
    states: dict[str, JobState] = {}
    for one in ids:
        row = connection.execute(
            "SELECT state FROM jobs WHERE id = ? AND ended_at_ms IS NOT NULL", (one,)
        ).fetchone()
        counts = {} if row else array_counts(connection, one)
        if row is not None:
            states[one] = JobState(row[0])
        elif counts and counts.keys() <= _WORST.keys():
            states[one] = _worst(counts)
    return states


def worst_ended(connection: apsw.Connection, array_ids: Iterable[str]) -> dict[str, JobState]:
    """The worst state among the ended elements of each array that has any."""
    counts = {one: array_counts(connection, one) for one in array_ids}
    return {one: _worst(found) for one, found in counts.items() if found.keys() & _WORST.keys()}


def _worst(counts: dict[str, int]) -> JobState:
    return JobState(max(counts.keys() & _WORST.keys(), key=lambda state: _WORST[state]))


def array_counts(connection: apsw.Connection, array_id: str) -> dict[str, int]:
    """Elements of an array by state."""
    sql = "SELECT state, count(*) FROM jobs WHERE array_id = ? GROUP BY state ORDER BY state"
    return {str(state): int(count) for state, count in connection.execute(sql, (array_id,))}


def environment(connection: apsw.Connection, environment_id: str) -> dict[str, str]:
    """The variables of a stored environment; empty when it is not there."""
    sql = "SELECT variables FROM environments WHERE id = ?"
    row = connection.execute(sql, (environment_id,)).fetchone()
    return _VARIABLES.decode(row[0]) if row else {}


def _jobs(connection: apsw.Connection, where: str, values: tuple[object, ...]) -> list[Job]:
    found = connection.execute(f"SELECT name, record FROM jobs {where}", values)
    return [_decode(name, record) for name, record in found]


def _decode(name: str, record: bytes) -> Job:
    try:
        return _DECODER.decode(record)
    except ValueError as error:
        raise ConfigError(
            f"the record of {name} cannot be read: {error}.",
            "It was left as it is. A newer mlsched may have written it: use that one.",
        ) from error
