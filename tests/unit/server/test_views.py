"""The JOB object: the contract of -o json."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.model.jobs import ArrayMembership, Attempt, EndCause, GroupPlacement, JobState, Outcome
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.server.views import array_view, count_states, job_view, rfc3339, usage_view
from mlsched.testing.builders import job

KEYS = {
    "name", "id", "state", "reason", "exit_code", "submitted_at", "started_at", "ended_at",
    "attempt", "queue", "priority", "gpus", "gpus_requested", "user", "command", "array",
    "array_index", "retries_left", "labels", "output_bytes", "output_lost_bytes",
    "output_dropped_bytes",
}  # fmt: skip
WAITS = Reason(ReasonCode.WAITING_FOR_CAPACITY, "needs 2 GPUs", {"asked": 2})


def test_the_keys_of_a_job_are_a_contract() -> None:
    view = job_view(replace(job("train-1", 1), submitted_at_ms=1_000), WAITS)
    assert set(view) == KEYS
    assert view["submitted_at"] == "1970-01-01T00:00:01.000Z"
    assert view["reason"] == {
        "code": "WaitingForCapacity",
        "message": "needs 2 GPUs",
        "evidence": {"asked": 2},
    }
    assert (view["started_at"], view["exit_code"], view["gpus"]) == (None, None, [])


def test_an_array_is_one_row_with_the_keys_of_a_job() -> None:
    def element(index: int, state: JobState, code: int | None) -> object:
        made = replace(job(f"sweep[{index}]", index), state=state, exit_code=code)
        return replace(made, array=ArrayMembership("arr", "sweep", index, 3))

    elements = [
        element(0, JobState.SUCCEEDED, 0),
        element(1, JobState.FAILED, 3),
        element(2, JobState.RUNNING, None),
    ]
    row = array_view(elements, {}, count_states(elements))  # type: ignore[arg-type]
    assert set(row) == KEYS
    assert (row["name"], row["id"], row["state"], row["exit_code"]) == (
        "sweep", "arr", "RUNNING", None,
    )  # fmt: skip
    assert row["array"] == {"size": 3, "states": {"FAILED": 1, "RUNNING": 1, "SUCCEEDED": 1}}
    done = [*elements[:2], element(2, JobState.SUCCEEDED, 0)]
    row = array_view(done, {}, count_states(done))  # type: ignore[arg-type]
    assert (row["state"], row["exit_code"]) == ("FAILED", 3)


def test_gpus_of_an_ended_job_are_those_that_it_held_last() -> None:
    held = (GroupPlacement("a", 1000, 0, ("GPU-1",)),)
    ended = replace(job("j", 1, gpus=1), attempts=(Attempt(1, placements=held),))
    assert job_view(ended, None)["gpus"] == ["GPU-1"]


def test_usage_counts_every_attempt_by_the_monotonic_clock() -> None:
    def attempt(number: int, started_ms: int, run_ms: int) -> Attempt:
        return Attempt(number, started_ms, Outcome(EndCause.EXITED, 1, run_ms=run_ms, cpu_ms=5))

    tried = replace(
        job("j", 1),
        submitted_at_ms=1_000,
        attempts=(attempt(1, 3_500, 400), attempt(2, 9_000, 100)),
    )
    usage = usage_view(tried, now_ms=0)
    assert (usage["wait_s"], usage["run_s"], usage["cpu_s"]) == (2.5, 0.5, 0.01)


def test_no_time_is_no_text() -> None:
    assert rfc3339(None) is None
