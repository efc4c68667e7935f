"""The output and the state of jobs together, as they come, until the jobs end.

One loop on one thread: it waits on the service's ``watch`` stream and looks at the log files in
between. Used by ``run``, ``logs -f`` and ``Job.logs(follow=True)``. Leaving it never ends a job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from mlsched.api.closing import Closing
from mlsched.api.interfaces import AnyClient, Outputs
from mlsched.api.logs import AttemptLog, Record
from mlsched.api.watching import ENDED_STATES, JobWatch

POLL_S_MIN = 0.01
POLL_S_MAX = 0.1
"""Between two looks at the log files; doubles while nothing is written."""

JsonObject = dict[str, Any]


class Output(Struct, frozen=True):
    """A record of a job's output."""

    job: JsonObject
    record: Record


class _JobLog:
    """Reads a job's attempts one after another; of the first one only the tail, if asked."""

    def __init__(
        self,
        outputs: Outputs,
        job_id: str,
        rank: int | None,
        first: int,
        tail: int | None,
        *,
        blocks: bool,
    ) -> None:
        self._outputs = outputs
        self._job_id = job_id
        self._rank = rank
        self._attempt = first
        self._tail = tail
        self._blocks = blocks
        self._log: AttemptLog | None = None
        self.read_bytes = 0
        """Output of the attempt that was given."""
        self.is_over = False

    def read(self, job: JsonObject) -> Iterator[Record]:
        """What there is now; after a job's end everything that is left."""
        newest, ended = int(job["attempt"]), job["state"] in ENDED_STATES
        while self._attempt < newest and self._is_whole():
            yield from self._drain()
            self._leave()
        if ended and self._attempt >= newest and self._is_whole():
            yield from self._drain()
            self.close()
            self.is_over = True
        else:
            yield from self._chunk()

    def _is_whole(self) -> bool:
        """Whether the attempt, which has ended, can be read to its end."""
        return self._outputs.is_whole(self._job_id, self._attempt)

    def _drain(self) -> Iterator[Record]:
        while records := self._chunk():
            yield from records

    def _chunk(self) -> list[Record]:
        records = self._current().read()
        self.read_bytes += sum(record.size_bytes for record in records)
        return records

    def _current(self) -> AttemptLog:
        if self._log is None:
            self._log = AttemptLog(
                self._outputs.directory(self._job_id, self._attempt),
                self._rank,
                self._tail,
                blocks=self._blocks,
            )
        return self._log

    def _leave(self) -> None:
        self.close()
        self._attempt += 1
        self._tail = None
        self.read_bytes = 0

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


class Follower(Closing):
    """Iterates over `Output` of jobs and, as plain dicts, JOB objects that changed.

    Between them it gives None whenever nothing came for a moment, so that the caller can look at
    a clock. It ends when every job has ended and all of its output was given.

    Args:
        client: Where to ask.
        jobs: Names or ids; an array stands for its elements.
        rank: Only this rank; None for all.
        tail: Begin with the last so many lines of each rank that has written already.
        newest_only: Leave out attempts before the one that is newest now.
        blocks: Give what was written at once as one record: much faster where lines are short.
    """

    def __init__(
        self,
        client: AnyClient,
        jobs: Sequence[str],
        *,
        rank: int | None = None,
        tail: int | None = None,
        newest_only: bool = False,
        blocks: bool = False,
    ) -> None:
        self._watch = JobWatch(client, jobs)
        self._outputs = client.open_outputs()
        self._rank = rank
        self._tail = tail
        self._newest_only = newest_only
        self._blocks = blocks
        self._logs: dict[str, _JobLog] = {}

    @property
    def jobs(self) -> dict[str, JsonObject]:
        """The newest JOB object of each job, by id."""
        return self._watch.jobs

    def missed_bytes(self, job_id: str) -> int:
        """Output of an ended job's newest attempt that was dropped before it could be read here.

        0 where only a part was asked for.
        """
        log = self._logs.get(job_id)
        if log is None or self._rank is not None or self._tail is not None:
            return 0
        return max(0, (self.jobs[job_id]["output_bytes"] or 0) - log.read_bytes)

    def close(self) -> None:
        """Stop following."""
        self._watch.close()
        self._outputs.close()
        for log in self._logs.values():
            log.close()

    def __iter__(self) -> Iterator[Output | JsonObject | None]:
        pause_s = POLL_S_MIN
        while not self._is_over():
            yield from self._look(pause_s)
            pause_s = min(max(2 * pause_s, POLL_S_MIN), POLL_S_MAX)
            for output in self._read():
                pause_s = 0.0
                yield output
            yield None

    def _is_over(self) -> bool:
        """Whether every job has ended and everything of it was given."""
        if not self._watch.is_over:
            return False
        return all(self._logs[one].is_over for one in self._watch.jobs if one in self._logs)

    def _look(self, pause_s: float) -> list[JsonObject]:
        """Changed jobs, waiting for at most so many seconds."""
        if self._watch.is_over:
            time.sleep(pause_s)
            return []
        found = self._watch.poll(pause_s)
        for job in found:
            self._outputs.look(job)
        return found

    def _read(self) -> Iterator[Output]:
        for job_id, job in self._watch.jobs.items():
            log = self._logs.get(job_id)
            if log is None:
                if not job["attempt"] and job["state"] not in ENDED_STATES:
                    continue
                first = max(1, job["attempt"]) if self._newest_only else 1
                log = _JobLog(
                    self._outputs, job_id, self._rank, first, self._tail, blocks=self._blocks
                )
                self._logs[job_id] = log
            if not log.is_over:
                for record in log.read(job):
                    yield Output(job, record)
