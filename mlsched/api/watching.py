"""Follows jobs to a state, whatever happens to the service meanwhile.

Turns the ``watch`` stream into JOB objects; a stream that breaks, because the service was killed or
upgraded, is opened again. Used by ``run``, ``wait``, ``logs -f``, `Job.result` and callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mlsched.api.client import TornReplyError
from mlsched.api.closing import Closing
from mlsched.api.interfaces import AnyClient, AnyStream
from mlsched.errors import NotFoundError, UnreachableError

JsonObject = dict[str, Any]

ENDED_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
EXIT_FAILED = 100
EXIT_CANCELLED = 103

REOPEN_S_MAX = 30.0
"""How long a broken stream is opened again and again before it is an error."""

LOOK_S = 0.5
"""For the service to tell how things are now."""

ANSWER_S_MAX = 15.0
"""The same for a cluster, which may be far away: a connection, and then a list."""

INTERRUPT_S_MAX = 0.5
"""An interrupt that was given to another thread is noticed after this at the latest."""

_REOPEN_PAUSE_S = 0.1


class JobWatch(Closing):
    """Jobs and their changes, from now until all have reached a state.

    Args:
        client: Where to ask.
        jobs: Names or ids; an array stands for its elements. None: every job that is open or comes.
        until: ``ended``, or ``running`` (an end counts too). None: for ever.

    Attributes:
        jobs: The newest JOB object of each job that was seen, by id; without names, of open ones.
        is_over: True when all have reached ``until``.
    """

    def __init__(
        self, client: AnyClient, jobs: Sequence[str] | None, until: str | None = "ended"
    ) -> None:
        self._client = client
        self._names = None if jobs is None else list(jobs)
        self._until = until
        self._stream: AnyStream | None = None
        self._broken_at: float | None = None
        self.jobs: dict[str, JsonObject] = {}
        self.is_over = self._names == []

    def close(self) -> None:
        """Stop watching."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def poll(self, timeout_s: float) -> list[JsonObject]:
        """JOB objects that are new or changed, waiting for at most ``timeout_s`` seconds.

        Raises:
            NotFoundError: a job does not exist.
            UnreachableError: the service is gone and does not come back.
        """
        if self.is_over:
            return []
        try:
            events = self._look(timeout_s)
            self._broken_at = None
        except (UnreachableError, ConnectionError) as error:
            is_torn = isinstance(error, (TornReplyError, ConnectionError))
            if not is_torn and self._broken_at is None:
                raise
            self._reopen_later(error)
            return []
        if self._stream is not None and self._stream.is_over:
            self.close()
            self.is_over = True
        return [event for event in events if self._take(event)]

    def _look(self, timeout_s: float) -> list[JsonObject]:
        if self._stream is not None:
            return self._stream.poll(timeout_s)
        self._stream = self._client.stream(
            "watch", jobs=self._names, until=self._until, timeout_s=None
        )
        if self._names is not None or not self.jobs:
            return self._stream.poll(timeout_s)
        events = self._stream.poll(min(timeout_s, LOOK_S))
        return events if self._stream.is_over else [*self._missed(events), *events]

    def _missed(self, events: Iterable[JsonObject]) -> Iterator[JsonObject]:
        """What became of jobs that a new service does not tell of, since they have ended."""
        told = {event["id"] for event in events}
        for job in [one for key, one in self.jobs.items() if key not in told]:
            try:
                found = self._client.call("show", job=job["id"])
            except NotFoundError:
                del self.jobs[job["id"]]
            else:
                yield {key: found[key] for key in job}

    def _take(self, event: JsonObject) -> bool:
        """Keep the newest version of a job; whether it is another than before."""
        before = self.jobs.get(event["id"])
        if self._names is None and event["state"] in ENDED_STATES:
            self.jobs.pop(event["id"], None)
        else:
            self.jobs[event["id"]] = event
        return before != event

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until all have reached the state; False when the time is over before.

        The time is `LOOK_S` at least, and until there was an answer `ANSWER_S_MAX`: what has
        happened already is always seen.
        """
        begun = time.monotonic()
        while not self.is_over:
            left_s = INTERRUPT_S_MAX
            if timeout_s is not None:
                least_s = LOOK_S if self.jobs else ANSWER_S_MAX
                left_s = begun + max(timeout_s, least_s) - time.monotonic()
            if left_s <= 0:
                return False
            self.poll(min(left_s, INTERRUPT_S_MAX))
        return True

    def _reopen_later(self, error: Exception) -> None:
        self.close()
        now = time.monotonic()
        self._broken_at = self._broken_at or now
        if now - self._broken_at > REOPEN_S_MAX:
            raise UnreachableError(
                "the service ended and does not come back.", "Run 'mlsched doctor'. Jobs go on."
            ) from error
        time.sleep(_REOPEN_PAUSE_S)


def exit_code_of_job(job: JsonObject) -> int:
    """What a command that waited for this job exits with.

    The job's own code when it ran to one (128 + n for signal n), 103 cancelled, 100 failed without
    an exit code, 0 for success and for a job that has not ended.
    """
    state = job["state"]
    if state == "CANCELLED":
        return EXIT_CANCELLED
    if state == "FAILED":
        return int(job.get("exit_code") or EXIT_FAILED)
    return 0


def exit_code_of_jobs(jobs: Iterable[JsonObject]) -> int:
    """The highest exit code of several jobs, or of the elements of an array."""
    return max(map(exit_code_of_job, jobs), default=0)
