"""The record of any job fits into one object, and what is live in it is kept."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from mlsched.errors import SpecError
from mlsched.model.jobs import Attempt, EndCause, GroupPlacement, Job, JobState, Outcome
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import ArraySpec, JobSpec
from mlsched.specs.records import Identity, find_contradiction, jobs_from, status_from
from mlsched.specs.sizes import PODS_MAX, check_size
from mlsched.specs.statuses import JobStatus

OBJECT_BYTES_MAX = 1_400_000
"""Of etcd's 1.5 MiB; the spec and what the API server adds need the rest."""

SPEC = JobSpec(command=("x",), array=ArraySpec(tuple(range(PODS_MAX))))
WAITING = jobs_from(Identity("team", "train", "2026-11-26T13:00:00Z"), SPEC, None, 1)
NODE = "ip-10-111-222-133.eu-central-1.compute.internal"
DEVICES = tuple(f"GPU-{number:08x}-1111-2222-3333-444444444444" for number in range(8))
HELD = (GroupPlacement(NODE, 64_000, 1 << 40, DEVICES),)
LONG = "長い" * 150


def element(job: Job, state: JobState) -> Job:
    """One that failed often before, with the longest of everything."""
    outcome = Outcome(EndCause.EXITED, 1, 0, 0, LONG, 1_800_000_000_000, 10**9)
    past = [Attempt(n, 1_800_000_000_000, outcome, HELD, LONG) for n in range(1, 30)]
    live, holds = not state.is_ended, state is JobState.RUNNING
    return replace(
        job,
        state=state,
        attempt=30,
        retries_used=29,
        requeues_used=5,
        attempts=(*past, Attempt(30, 1_800_000_000_000, None if holds else outcome, HELD, LONG)),
        placements=HELD if holds else (),
        reason=Reason(ReasonCode.NODE_LOST, LONG, {"why": LONG}),
        started_at_ms=1_800_000_000_000,
        ended_at_ms=None if live else 1_800_000_000_000,
        exit_code=None if live else 1,
    )


def stored(jobs: list[Job]) -> JobStatus:
    """The status as it is written and read again."""
    status = status_from(jobs, None, generation=1, epoch=1, now_ms=1)
    data = msgspec.json.encode(status)
    assert len(data) <= OBJECT_BYTES_MAX
    return msgspec.json.decode(data, type=JobStatus)


@pytest.mark.parametrize(
    "state", [JobState.RUNNING, JobState.PENDING, JobState.FAILED, JobState.SUCCEEDED]
)
def test_the_largest_array_fits_in_its_worst_case(state: JobState) -> None:
    status = stored([element(job, state) for job in WAITING])
    found = jobs_from(Identity("team", "train", "2026-11-26T13:00:00Z"), SPEC, status, 1)
    assert {job.state for job in found} == {state}
    assert not any(map(find_contradiction, found))
    assert {(one.attempt, one.retries_used, one.requeues_used) for one in found} == {(30, 29, 5)}
    if state is JobState.RUNNING:
        assert {job.placements for job in found} == {HELD}
        assert {job.attempts[-1].number for job in found} == {30}
    elif state.is_ended:
        assert {job.exit_code for job in found} == {1}


def test_a_gang_of_as_many_nodes_fits() -> None:
    (fresh,) = jobs_from(Identity("team", "g", "2026-11-26T13:00:00Z"), JobSpec(("x",)), None, 1)
    many = element(fresh, JobState.RUNNING)
    held = HELD * PODS_MAX
    attempts = tuple(replace(one, placements=held) for one in many.attempts)
    status = stored([replace(many, placements=held, attempts=attempts)])
    assert len(status.placements) == PODS_MAX


def test_a_small_status_tells_all() -> None:
    one = element(WAITING[0], JobState.FAILED)
    status = stored([one, *WAITING[1:]])
    assert status.elements[0].message == LONG
    assert status.elements[0].ended_at


@pytest.mark.parametrize(("elements", "text_bytes"), [(PODS_MAX, 130_000), (20, 250_000)])
def test_a_status_leaves_room_for_a_large_spec(elements: int, text_bytes: int) -> None:
    """And for the annotation in which `kubectl apply` keeps the spec once more."""
    script = "#!/bin/sh\n" + "#" * text_bytes
    large = {str(index): "x" * 100_000 for index in range(5 if elements < PODS_MAX else 0)}
    spec = JobSpec(script=script, env=large, array=ArraySpec(tuple(range(elements))))
    check_size(spec)
    made = jobs_from(Identity("team", "train", "2026-11-26T13:00:00Z"), spec, None, 1)
    status = stored([element(job, JobState.RUNNING) for job in made])
    spec_bytes, status_bytes = (len(msgspec.json.encode(part)) for part in (spec, status))
    assert status_bytes + spec_bytes + min(spec_bytes, 256 << 10) <= 1_560_000
    assert all(one.placements for one in status.elements)


def test_a_spec_that_leaves_no_room_is_refused() -> None:
    check_size(JobSpec(script="#!/bin/sh\n" + "#" * 250_000, env={"A": "x" * 500_000}))
    with pytest.raises(SpecError, match="too large for a job of 1500 pods"):
        check_size(replace(SPEC, env={"A": "x" * 300_000}))


def test_what_cannot_fit_is_refused() -> None:
    check_size(SPEC)
    check_size(JobSpec(("x",), nodes=PODS_MAX))
    with pytest.raises(SpecError, match=f"at most {PODS_MAX} pods, found {PODS_MAX + 1} nodes"):
        check_size(JobSpec(("x",), nodes=PODS_MAX + 1))
    with pytest.raises(SpecError, match=f"{PODS_MAX} elements of 2 nodes"):
        check_size(replace(SPEC, nodes=2))
