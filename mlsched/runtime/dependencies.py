"""Dependencies as the controller keeps them: who waits for whom, and how those that ended did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlsched.core.gates import lost_dependency
from mlsched.model.jobs import Job, JobState, ResolvedDependency


class Dependencies:
    """Jobs that wait for others, and how these ended, for as long as somebody waits for them."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._dependents: dict[str, dict[str, None]] = {}

    def learn(self, job: Job, ended: Mapping[str, JobState]) -> None:
        """Note what a job waits for, and how that of it ended which has ended already."""
        if job.attempt:
            return
        for dependency in job.after:
            one = dependency.job_id
            self._dependents.setdefault(one, {})[job.id] = None
            if one in ended:
                self._states[one] = ended[one]

    def discard(self, job: Job) -> None:
        """A job waits for nothing any more."""
        for dependency in job.after:
            one = dependency.job_id
            others = self._dependents.get(one, {})
            others.pop(job.id, None)
            if not others:
                self._dependents.pop(one, None)
                self._states.pop(one, None)

    def reopen(self, job: Job) -> dict[str, None]:
        """A job has come: how an earlier one of its id, or of that of its array, ended is past.

        Returns:
            The ids of the jobs that wait for it, and knew of the earlier one.
        """
        others: dict[str, None] = {}
        for one in (job.id, job.array.array_id if job.array is not None else ""):
            if self._states.pop(one, None) is not None:
                others |= self._dependents[one]
        return others

    def settle(self, ended: Mapping[str, JobState]) -> dict[str, None]:
        """Note ends; the ids of the jobs that wait for them, in order of their acceptance."""
        others: dict[str, None] = {}
        for one, state in ended.items():
            if one in self._dependents:
                self._states[one] = state
                others |= self._dependents[one]
        return others

    def lost(self, job: Job) -> ResolvedDependency | None:
        """The first dependency of a job that can never be satisfied any more."""
        return lost_dependency(job, self._states)

    def known_states(
        self, jobs: Iterable[Job], open_jobs: Mapping[str, Job]
    ) -> dict[str, JobState]:
        """States of what the jobs wait for, by id, as far as they are known."""
        states: dict[str, JobState] = {}
        for job in jobs:
            for dependency in job.after:
                other = open_jobs.get(dependency.job_id)
                state = other.state if other else self._states.get(dependency.job_id)
                if state is not None:
                    states[dependency.job_id] = state
        return states
