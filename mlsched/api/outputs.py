"""A job's output as lines of text, for Python: `Job.logs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mlsched.api.following import Follower, Output
from mlsched.api.interfaces import AnyClient
from mlsched.api.logs import Record, read_attempt


class JobOutput:
    """The lines of a job's output: iterate over them, or print them all.

    Args:
        connect: Gives the client to ask.
        job_id: Whose output.
        follow: Go on until the job ends.
        rank: Only this rank; None for all.
        tail: Only the last so many lines.
    """

    def __init__(
        self,
        connect: Callable[[], AnyClient],
        job_id: str,
        *,
        follow: bool,
        rank: int | None,
        tail: int | None,
    ) -> None:
        self._connect = connect
        self._job_id = job_id
        self._follow = follow
        self._rank = rank
        self._tail = tail

    def __iter__(self) -> Iterator[str]:
        """Lines without their newlines; bytes that are not UTF-8 become U+FFFD."""
        return _join(self._records())

    def __str__(self) -> str:
        return "\n".join(self)

    def __repr__(self) -> str:
        return "<output of a job: iterate over it>" if self._follow else str(self)

    def _records(self) -> Iterator[tuple[str, Record]]:
        """Records, each with the id of its job."""
        client = self._connect()
        if not self._follow:
            yield from ((self._job_id, record) for record in self._read(client))
            return
        with Follower(
            client, [self._job_id], rank=self._rank, tail=self._tail, newest_only=True
        ) as follower:
            for item in follower:
                if isinstance(item, Output):
                    yield str(item.job["id"]), item.record

    def _read(self, client: AnyClient) -> Iterator[Record]:
        """What the newest attempt has written so far; an array has none."""
        job = client.call("show", job=self._job_id)
        if not job["attempt"] or job["array"]:
            return
        with client.open_outputs() as outputs:
            directory = outputs.fetch(job, job["attempt"])
            yield from read_attempt(directory, self._rank, tail=self._tail)


def join_lines(records: Iterable[Record]) -> Iterator[str]:
    """Whole lines of one job's records."""
    return _join(("", record) for record in records)


def _join(records: Iterable[tuple[str, Record]]) -> Iterator[str]:
    """Whole lines of records, whose parts may alternate between jobs, ranks and streams."""
    parts: dict[tuple[str, int, str], bytes] = {}
    for job_id, record in records:
        key = (job_id, record.rank, record.stream)
        data = parts.pop(key, b"") + record.data
        if record.ends_line:
            yield data.decode(errors="replace")
        else:
            parts[key] = data
    for data in parts.values():
        yield data.decode(errors="replace")
