"""What the pods of an attempt say: each way in which one can end, and with which reason."""

from __future__ import annotations

from typing import Any

import pytest

from mlsched.adapters.kubernetes.attempts import read_pod, summarize
from mlsched.model.jobs import EndCause
from tests.unit.kubernetes.conftest import ended, own_pod, running, waiting

DELETING = {"deletionTimestamp": "2026-01-01T00:00:02Z"}


def test_a_running_pod_has_started() -> None:
    reading = read_pod(own_pod(status=running()))
    assert reading.started_at_ms == 1767225601000
    assert not reading.is_over
    assert reading.failure is None


def test_exit_code_zero_is_success() -> None:
    reading = read_pod(own_pod(status=ended(0)))
    assert reading.is_success
    assert reading.is_over
    assert reading.run_ms == 2000


def test_what_could_not_be_started_has_no_start_and_ran_for_no_time() -> None:
    status = ended(128, reason="StartError")
    status["containerStatuses"][0]["state"]["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
    reading = read_pod(own_pod(status=status))
    assert (reading.started_at_ms, reading.run_ms) == (None, 0)
    assert reading.failure is not None
    assert reading.failure.run_ms == 0


def test_what_the_layers_of_a_runtime_wrote_before_the_cause_is_left_out() -> None:
    layers = "failed to create containerd task: OCI runtime create failed: runc create failed: "
    text = f'{layers}unable to start container process: exec: "x": not found'
    failure = read_pod(own_pod(status=ended(128, reason="StartError", message=text))).failure
    assert failure is not None
    assert failure.message == 'exec: "x": not found'


@pytest.mark.parametrize(
    ("status", "cause", "code"),
    [
        (ended(3), EndCause.EXITED, 3),
        (ended(139), EndCause.SIGNALLED, 139),
        (ended(137, reason="OOMKilled"), EndCause.OUT_OF_MEMORY, 137),
        (ended(128, reason="StartError", message='exec: "x": executable file not found'),
         EndCause.NOT_FOUND, 127),
        (ended(128, reason="StartError", message="exec: permission denied"),
         EndCause.NOT_EXECUTABLE, 126),
        (ended(128, reason="StartError", message="chdir to cwd: no such file or directory"),
         EndCause.WORKDIR_MISSING, 126),
        (ended(143) | {"reason": "DeadlineExceeded"}, EndCause.TIME_LIMIT, 143),
        (ended(137) | {"reason": "Evicted", "message": "disk"}, EndCause.EVICTED, None),
        ({"phase": "Failed", "reason": "NodeLost"}, EndCause.NODE_LOST, None),
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, EndCause.REVOKED, None),
        ({"phase": "Failed", "reason": "OutOfcpu"}, EndCause.REVOKED, None),
        ({"phase": "Failed", "message": "odd"}, EndCause.CANNOT_START, None),
    ],
)  # fmt: skip
def test_each_failure_has_its_cause(
    status: dict[str, Any], cause: EndCause, code: int | None
) -> None:
    failure = read_pod(own_pod(status=status)).failure
    assert failure is not None
    assert (failure.cause, failure.exit_code) == (cause, code)


def test_a_pod_that_was_deleted_while_it_ran_was_not_the_jobs_doing() -> None:
    pod = own_pod(metadata=DELETING, status=ended(143))
    failure = read_pod(pod, is_gone=True).failure
    assert failure is not None
    assert failure.cause is EndCause.DELETED


def test_what_ended_by_itself_before_its_pod_was_deleted_counts_as_it_ended() -> None:
    assert read_pod(own_pod(metadata=DELETING, status=ended(0)), is_gone=True).is_success
    failure = read_pod(own_pod(metadata=DELETING, status=ended(5)), is_gone=True).failure
    assert failure is not None
    assert (failure.cause, failure.exit_code) == (EndCause.EXITED, 5)


def test_a_pod_that_is_being_deleted_and_still_runs_is_not_decided() -> None:
    reading = read_pod(own_pod(metadata=DELETING, status=running()))
    assert reading.failure is None
    assert not reading.is_over


def test_a_disruption_counts_once_the_pod_ends() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    marked = running() | {"conditions": [condition]}
    assert read_pod(own_pod(status=marked)).failure is None
    failure = read_pod(own_pod(metadata=DELETING, status=marked)).failure
    assert failure is not None
    assert failure.cause is EndCause.EVICTED


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"])
def test_an_image_that_does_not_come_is_a_trouble(reason: str) -> None:
    trouble = read_pod(own_pod(status=waiting(reason))).trouble
    assert trouble is not None
    assert trouble.cause is EndCause.IMAGE_UNAVAILABLE
    assert reason in trouble.message


def test_a_pod_with_two_tasks_has_started_when_both_have() -> None:
    spec = {"containers": [{"name": "rank-0"}, {"name": "rank-1"}]}
    both = running(0)["containerStatuses"] + running(1)["containerStatuses"]
    one = own_pod(spec=spec, status=running(0))
    assert read_pod(one).started_at_ms is None
    two = own_pod(spec=spec, status={"phase": "Running", "containerStatuses": both})
    assert read_pod(two).started_at_ms is not None


def test_a_task_that_fails_fails_its_pod_while_the_others_run() -> None:
    spec = {"containers": [{"name": "rank-0"}, {"name": "rank-1"}]}
    both = running(0)["containerStatuses"] + ended(4, 1)["containerStatuses"]
    reading = read_pod(own_pod(spec=spec, status={"phase": "Running", "containerStatuses": both}))
    assert reading.failure is not None
    assert (reading.failure.exit_code, reading.failure.failed_rank) == (4, 1)
    assert not reading.is_over


BESIDE = {"containers": [{"name": "rank-0"}, {"name": "proxy"}]}
"""A mesh put a container of its own into the pod."""


def test_a_pod_with_a_container_of_others_has_started_when_its_ranks_have() -> None:
    assert read_pod(own_pod(spec=BESIDE, status=running())).started_at_ms is not None


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (0, "Failed"), (5, "Failed")])
def test_the_ranks_tell_how_a_pod_with_a_container_of_others_has_ended(
    code: int, phase: str
) -> None:
    reading = read_pod(own_pod(spec=BESIDE, status=ended(code) | {"phase": phase}))
    assert reading.is_over
    assert reading.is_success == (code == 0)
    assert (reading.failure.exit_code if reading.failure else 0) == code


def test_a_pod_has_not_ended_while_a_container_of_others_runs() -> None:
    reading = read_pod(own_pod(spec=BESIDE, status=ended(0) | {"phase": "Running"}))
    assert not reading.is_over
    assert not reading.is_success


def test_a_pod_that_succeeded_has_also_where_it_does_not_tell_of_its_containers() -> None:
    reading = read_pod(own_pod(status={"phase": "Succeeded"}))
    assert (reading.is_success, reading.is_over) == (True, True)


def test_a_gang_has_started_when_all_pods_have() -> None:
    first = read_pod(own_pod(0, status=running(0)))
    second = read_pod(own_pod(1, status=running(1)))
    assert summarize({0: first}, 2).started_at_ms is None
    assert summarize({0: first, 1: second}, 2).started_at_ms is not None


def test_the_failure_of_a_gang_is_the_one_that_the_job_made() -> None:
    deleted = read_pod(own_pod(0, metadata=DELETING, status=ended(143)), is_gone=True)
    failed = read_pod(own_pod(1, status=ended(9, 1, finishedAt="2026-01-01T00:00:09Z")))
    failure = summarize({0: deleted, 1: failed}, 2).failure
    assert failure is not None
    assert failure.exit_code == 9
