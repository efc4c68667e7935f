"""A status says everything of a job that a controller needs to go on with it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mlsched.model.jobs import Attempt, EndCause, GroupPlacement, JobState, Outcome
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.specs import ArraySpec, Dependency, JobSpec
from mlsched.specs.records import Identity, jobs_from, parse_time, status_from
from mlsched.specs.statuses import ATTEMPTS_KEPT_MAX, JobStatus

IDENTITY = Identity("team", "train", "2026-11-26T13:00:00Z", {"mlsched.io/user": "ann"})
TIMES = st.integers(0, 4_000_000_000_000)
TEXT = st.text(max_size=20)
PLACEMENTS = st.builds(
    GroupPlacement,
    st.sampled_from(["node-a", "node-b"]),
    st.integers(0, 10**6),
    st.integers(0, 2**50),
    st.lists(TEXT, max_size=3).map(tuple),
)
OUTCOMES = st.builds(
    Outcome,
    cause=st.sampled_from(EndCause),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.integers(0, 64),
    failed_rank=st.integers(-1, 9),
    message=TEXT,
    ended_at_ms=TIMES.filter(bool),
    run_ms=st.integers(0, 10**9),
)
REASONS = st.builds(
    Reason, st.sampled_from(ReasonCode), TEXT, st.dictionaries(TEXT, TEXT | st.integers(0, 9))
)


@st.composite
def attempts(draw: st.DrawFn) -> tuple[Attempt, ...]:
    count = draw(st.integers(0, 4))
    return tuple(
        Attempt(
            number,
            draw(st.none() | TIMES),
            draw(st.none() | OUTCOMES),
            tuple(GroupPlacement(name, 0, 0) for name in draw(st.lists(TEXT, max_size=2))),
            draw(TEXT),
        )
        for number in range(1, count + 1)
    )


CHANGES = st.fixed_dictionaries(
    {
        "state": st.sampled_from(JobState),
        "reason": st.none() | REASONS,
        "retries_used": st.integers(0, 9),
        "requeues_used": st.integers(0, 9),
        "attempts": attempts(),
        "started_at_ms": st.none() | TIMES,
        "ended_at_ms": st.none() | TIMES,
        "exit_code": st.none() | st.integers(0, 255),
        "cancel_requested": st.booleans(),
        "cancel_grace_s": st.none() | st.integers(0, 99),
    }
)


def _stored(status: JobStatus) -> JobStatus:
    """As the API server gives it back."""
    return msgspec.json.decode(msgspec.json.encode(status), type=JobStatus)


@given(CHANGES, st.lists(PLACEMENTS, max_size=3).map(tuple))
def test_a_job_comes_back_from_its_status(
    changes: dict[str, object], held: tuple[GroupPlacement, ...]
) -> None:
    spec = JobSpec(command=("x",), after=(Dependency("first", "any"),))
    (fresh,) = jobs_from(IDENTITY, spec, None, 7)
    job = replace(fresh, **changes)
    number = len(job.attempts)
    job = replace(job, attempt=number)
    if number:
        last = replace(job.attempts[-1], placements=held)
        job = replace(job, placements=held, attempts=(*job.attempts[:-1], last))
    status = status_from([job], None, generation=1, epoch=3, now_ms=5)
    assert jobs_from(IDENTITY, spec, _stored(status), 7) == (job,)


@given(st.lists(CHANGES, min_size=3, max_size=3))
def test_an_array_comes_back_element_by_element(elements: list[dict[str, object]]) -> None:
    spec = JobSpec(command=("x",), array=ArraySpec((0, 4, 9)))
    jobs = []
    for fresh, changes in zip(jobs_from(IDENTITY, spec, None, 7), elements, strict=True):
        job = replace(fresh, **changes)
        waits = job.state is JobState.PENDING and not job.attempts
        jobs.append(fresh if waits else replace(job, attempt=len(job.attempts)))
    status = status_from(jobs, None, generation=1, epoch=3, now_ms=5)
    assert list(jobs_from(IDENTITY, spec, _stored(status), 7)) == jobs


def test_names_and_ids_say_where_a_job_belongs() -> None:
    first, second = jobs_from(IDENTITY, JobSpec(command=("x",), array=ArraySpec((0, 4))), None, 1)
    assert (first.id, second.id) == ("team/train.0", "team/train.4")
    assert second.name == "train[4]"
    assert second.array is not None
    assert second.array.array_id == "team/train"
    assert second.user == "ann"


def test_a_job_can_wait_for_one_element() -> None:
    after = (Dependency("sweep[4]", "ok"), Dependency("sweep", "any"))
    (job,) = jobs_from(IDENTITY, JobSpec(command=("x",), after=after), None, 1)
    assert [one.job_id for one in job.after] == ["team/sweep.4", "team/sweep"]


def test_a_word_of_another_version_is_no_error() -> None:
    status = JobStatus(state=JobState.PENDING, reason="FromTheFuture", message="later")
    (job,) = jobs_from(IDENTITY, JobSpec(command=("x",)), status, 1)
    assert job.reason is not None
    assert (job.reason.code, job.reason.message) == (ReasonCode.PENDING_EVALUATION, "later")


def test_conditions_keep_their_time_while_they_hold() -> None:
    (fresh,) = jobs_from(IDENTITY, JobSpec(command=("x",)), None, 1)
    placed = replace(fresh, state=JobState.STARTING)
    first = status_from([placed], None, generation=1, epoch=0, now_ms=1000)
    running = replace(fresh, state=JobState.RUNNING)
    second = status_from([running], first, generation=1, epoch=0, now_ms=9000)
    assert second.conditions[0].last_transition_time == first.conditions[0].last_transition_time
    done = replace(fresh, state=JobState.SUCCEEDED)
    third = status_from([done], second, generation=1, epoch=0, now_ms=9000)
    kinds = {
        one.type: (one.status, parse_time(one.last_transition_time)) for one in third.conditions
    }
    assert kinds == {"Placed": ("False", 9000), "Complete": ("True", 9000)}


def test_an_object_cannot_grow_with_its_retries() -> None:
    (fresh,) = jobs_from(IDENTITY, JobSpec(command=("x",)), None, 1)
    many = tuple(Attempt(number) for number in range(1, 500))
    status = status_from([replace(fresh, attempts=many)], None, generation=1, epoch=0, now_ms=0)
    assert len(status.attempts) == ATTEMPTS_KEPT_MAX
    assert status.attempts[-1].number == 499
