"""Short ways to make jobs that are placed."""

from __future__ import annotations

import pytest

from mlsched.model.jobs import GroupPlacement, Job
from mlsched.model.specs import JobSpec


@pytest.fixture
def make_job():
    """A placed job; ``devices`` is a tuple of UUIDs for each group."""

    def make(*command, devices=((),), attempt=1, array=None, **spec):
        groups = tuple(GroupPlacement("here", 1000, 1 << 30, tuple(uuids)) for uuids in devices)
        made = JobSpec(command=command, **spec)
        return Job(
            "job-1", "train-7", 1, made, 0, attempt=attempt, placements=groups, array=array,
            user="ada",
        )  # fmt: skip

    return make
