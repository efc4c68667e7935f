"""Pending jobs as the controller keeps them: which of them the next cycle must look at.

Unless something was freed, a job that did not fit before does not fit now: then only jobs that are
new to placement, and the blocked job that they must not delay, are looked at. Jobs that wait for
room stand in a backlog; jobs that wait for a dependency or a retry are looked at when that is over.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlsched.core.backlogs import Backlog
from mlsched.core.policies import Policy
from mlsched.model.jobs import Job
from mlsched.runtime.backoffs import Backoffs


class Pending:
    """Bookkeeping of the jobs that hold nothing.

    Attributes:
        backoffs: Jobs that wait before their next try.
        backlog: Jobs that wait for room, their queue or their array.
        blocked: Id of the first job that waits for room.
    """

    def __init__(self, policy: Policy) -> None:
        self.backoffs = Backoffs()
        self.backlog = Backlog(policy)
        self.blocked: str | None = None
        self._fresh: dict[str, None] = {}
        self._gated: dict[str, None] = {}
        self._look_at_all = False

    def look_at(self, job_id: str) -> None:
        """Something changed for one job: its next cycle looks at it by itself."""
        self.backlog.discard(job_id)
        self._gated.pop(job_id, None)
        self._fresh[job_id] = None
        self._unblock(job_id)

    def look_at_all(self) -> None:
        """Something was freed, so any job that waits for room may start."""
        self._look_at_all = True

    def look_at_gates(self) -> None:
        """Something changed that shuts or opens gates: every job is looked at."""
        self._look_at_all = True
        self._fresh |= self._gated
        self._gated.clear()

    def forget(self, job_id: str) -> None:
        """A job waits no more."""
        self.backoffs.discard(job_id)
        self.backlog.discard(job_id)
        self._gated.pop(job_id, None)
        self._fresh.pop(job_id, None)
        self._unblock(job_id)

    def _unblock(self, job_id: str) -> None:
        """What had to wait behind a job may start once that waits for room no more."""
        if job_id == self.blocked:
            self.blocked, self._look_at_all = None, True

    def end_backoffs(self, now_ms: int) -> None:
        """Look at jobs whose wait before the next try is over."""
        for job_id in self.backoffs.take_over(now_ms):
            self.look_at(job_id)

    def take_candidates(self) -> tuple[list[str], Backlog | None]:
        """What the next cycle looks at: jobs by themselves, and the backlog if all must be."""
        fresh, self._fresh = self._fresh, {}
        everything, self._look_at_all = self._look_at_all, False
        if everything:
            return list(fresh), self.backlog
        if fresh and self.blocked is not None:
            fresh[self.blocked] = None
        return list(fresh), None

    def keep(self, job: Job, *, is_gated: bool) -> None:
        """A job that was looked at by itself goes on waiting."""
        if is_gated:
            self._gated[job.id] = None
        elif job.id not in self.backlog:
            self.backlog.add(job)

    @property
    def backoff_until_ms(self) -> Mapping[str, int]:
        """Monotonic instant before which each job must not be tried again."""
        return self.backoffs.until_ms
