"""``import mlsched as ml``: light, lazy, and complete."""

from __future__ import annotations

import pickle

import pytest

import mlsched as ml
from mlsched.api.errors import error_of_job
from mlsched.api.texts import why_text


def test_public_names_are_sorted_and_exist():
    assert ml.__all__ == sorted(ml.__all__)
    assert all(getattr(ml, name) is not None for name in ml.__all__)
    assert set(ml.__all__) <= set(dir(ml))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sumbit'"):
        _ = ml.sumbit


def test_a_handle_survives_pickling():
    job = ml.Job("train-1", "abc")
    again = pickle.loads(pickle.dumps(job))
    assert (again.name, again.id) == ("train-1", "abc")
    assert again == job
    assert len({again, job}) == 1


@pytest.mark.parametrize(
    ("state", "code", "kind"),
    [
        ("FAILED", "OutOfMemory", ml.OutOfMemory),
        ("FAILED", "TimeLimitExceeded", ml.Timeout),
        ("FAILED", "DependencyFailed", ml.Unschedulable),
        ("FAILED", "ExitedWithError", ml.JobFailed),
        ("CANCELLED", "CancelledByUser", ml.Cancelled),
        ("CANCELLED", "", ml.Cancelled),
    ],
)
def test_each_end_has_an_exception_of_its_own(state, code, kind):
    job = {"name": "j-1", "state": state, "exit_code": 3, "reason": {"code": code, "message": "m"}}
    error = error_of_job(job)
    assert type(error) is kind
    assert isinstance(error, ml.JobError)
    assert error.job == "j-1"
    assert error.exit_code == 3


def test_the_answer_to_why_is_reason_evidence_and_next_step():
    text = why_text(
        {
            "job": {"name": "j-1", "state": "PENDING"},
            "reason": {"code": "WaitingForCapacity", "message": "needs 2 GPUs, 1 is free"},
            "details": ["other-1 holds GPU-1"],
            "unblocks": ["with --gpus 1"],
            "command": "mlsched show j-1",
        }
    )
    assert text.splitlines() == [
        "j-1 PENDING: needs 2 GPUs, 1 is free",
        "  reason: WaitingForCapacity",
        "  other-1 holds GPU-1",
        "would start now:",
        "  with --gpus 1",
        "next: mlsched show j-1",
    ]
