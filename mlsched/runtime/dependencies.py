"""Dependencies as the controller keeps them: who waits for whom, and how those that ended did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlsched.core.gates import lost_dependency
from mlsched.model.jobs import Job, JobState, ResolvedDependency


class Dependencies:
    """Final states of jobs and arrays that others wait for, and the ids of those others."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._dependents: dict[str, list[str]] = {}

    def add(self, job: Job) -> None:
        """Note what a job waits for."""
        for dependency in job.after:
            self._dependents.setdefault(dependency.job_id, []).append(job.id)

    def note_ended(self, job_id: str, state: JobState) -> None:
        """Note how something ended that a job waits for."""
        self._states[job_id] = state

    def settle(self, ended: Mapping[str, JobState]) -> dict[str, None]:
        """Note ends; the ids of the jobs that waited for them, in order of their acceptance."""
        others: dict[str, None] = {}
        for one, state in ended.items():
            for other in self._dependents.pop(one, ()):
                self._states[one] = state
                others[other] = None
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
