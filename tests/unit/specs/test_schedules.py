"""Documents of kind Schedule."""

from __future__ import annotations

from typing import Any

import pytest

from mlsched.errors import SpecError
from mlsched.specs.schedules import load_schedule


def document(**job: Any) -> dict[str, Any]:
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "Schedule",
        "metadata": {"name": "nightly", "labels": {"team": "a"}},
        "spec": {"cron": "0 2 * * *", "job": {"command": "true", **job}},
    }


def test_the_job_of_a_tick_has_the_labels_of_its_schedule_and_knows_its_tick() -> None:
    job = load_schedule(document(env={"A": "1"}, labels={"b": "2"})).job_document(5_000)
    assert job["metadata"]["name"] == "nightly-5"
    assert job["spec"]["env"] == {"A": "1", "MLSCHED_TICK_MS": "5000"}
    assert job["spec"]["labels"] == {"team": "a", "b": "2", "mlsched.io/schedule": "nightly"}


@pytest.mark.parametrize("found", [None, "A=1", 7, ["A=1"], {"A": 1}])
@pytest.mark.parametrize("field", ["env", "labels"])
def test_what_is_no_object_of_texts_is_refused_by_its_name(field: str, found: object) -> None:
    with pytest.raises(SpecError, match=rf"spec\.job\.{field}"):
        load_schedule(document(**{field: found}))
