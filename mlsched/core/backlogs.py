"""Pending jobs in lanes: jobs that are alike to placement stand behind each other in one lane.

When one of them does not fit now, none behind it does: so a cycle looks at lanes, not at jobs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping

from mlsched.core.policies import Policy
from mlsched.errors import InvariantError
from mlsched.model.jobs import Job, needs_of, queue_keys
from mlsched.model.resources import GroupNeed, need_of

Shape = tuple[GroupNeed, int] | tuple[GroupNeed, ...]
"""What jobs have in common that fit, or do not fit, together."""

_LaneKey = tuple[Shape, tuple[str, ...], str]


def shape_of(job: Job) -> Shape:
    """The need of each group and their number; all needs for a gang whose members differ."""
    return job.needs or (need_of(job.spec), job.spec.nodes)


class Lane:
    """Jobs of one shape, of the same queues and of the same array if that has a bound, in order."""

    def __init__(self, first: Job, shape: Shape) -> None:
        self.shape = shape
        self.needs = needs_of(first)
        self.keys: list[tuple[int, ...]] = []
        """Keys of the policy, ascending."""
        self.ids: list[str] = []
        """Ids of the jobs, at the places of their keys."""
        self.jobs: dict[str, Job] = {}

    def add(self, key: tuple[int, ...], job: Job) -> None:
        """Put a job where its key says.

        Raises:
            InvariantError: another job has this key.
        """
        _insert(self.keys, self.ids, key, job.id)
        self.jobs[job.id] = job

    def remove(self, key: tuple[int, ...]) -> None:
        """Take out the job with this key."""
        at = bisect_left(self.keys, key)
        del self.jobs[self.ids[at]], self.keys[at], self.ids[at]

    def index_behind(self, key: tuple[int, ...], start: int) -> int:
        """The place of the first job behind a key, not before ``start``."""
        return bisect_right(self.keys, key, start)


class Backlog:
    """Pending jobs that nothing but room, their queues and their arrays keeps from starting."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lanes: dict[_LaneKey, Lane] = {}
        self._places: dict[str, tuple[_LaneKey, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._places

    @property
    def lanes(self) -> Iterable[Lane]:
        """All lanes; none is empty."""
        return self._lanes.values()

    def add(self, job: Job) -> None:
        """Add a job that is not there; O(log jobs), and a move of those behind it."""
        shape, key = shape_of(job), self._policy.key(job)
        bound = job.array.array_id if job.array is not None and job.array.max_parallel else ""
        lane_key = (shape, queue_keys(job), bound)
        lane = self._lanes.get(lane_key)
        if lane is None:
            lane = self._lanes[lane_key] = Lane(job, shape)
        lane.add(key, job)
        self._places[job.id] = (lane_key, key)

    def discard(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        place = self._places.pop(job_id, None)
        if place is None:
            return
        lane_key, key = place
        lane = self._lanes[lane_key]
        lane.remove(key)
        if not lane.keys:
            del self._lanes[lane_key]


class Placed(Mapping[str, Job]):
    """Jobs that hold something, by id, with those behind a key of the policy at hand."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._jobs: dict[str, Job] = {}
        self._keys: list[tuple[int, ...]] = []
        self._ids: list[str] = []

    def __getitem__(self, job_id: str) -> Job:
        return self._jobs[job_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Add a job, or replace its record by a newer one.

        Raises:
            InvariantError: another job has its key.
        """
        if job.id not in self._jobs:
            _insert(self._keys, self._ids, self._policy.key(job), job.id)
        self._jobs[job.id] = job

    def discard(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            at = bisect_left(self._keys, self._policy.key(job))
            del self._keys[at], self._ids[at]

    def behind(self, key: tuple[int, ...]) -> list[str]:
        """Ids of the jobs behind a key."""
        return self._ids[bisect_right(self._keys, key) :]


def _insert(keys: list[tuple[int, ...]], ids: list[str], key: tuple[int, ...], job_id: str) -> None:
    """Keep both lists in the order of the keys, which find a job again only if no two share one."""
    at = bisect_left(keys, key)
    if at < len(keys) and keys[at] == key:
        raise InvariantError("one place in the order a job", f"{ids[at]} and {job_id} share {key}")
    keys.insert(at, key)
    ids.insert(at, job_id)
