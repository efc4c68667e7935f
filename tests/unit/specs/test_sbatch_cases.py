"""The cases of public batch scripts that lie beside the checkout, where they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlsched.errors import SpecError
from mlsched.specs.documents import JOB_NAME_ANNOTATION, to_document
from mlsched.specs.sources import Submission, read_submission

CASES = Path(__file__).parents[4] / "shared" / "cases" / "sbatch"
EXPECTED: dict[str, Any] = (
    json.loads((CASES / "expected.json").read_text()) if CASES.is_dir() else {}
)

pytestmark = [
    pytest.mark.needs_shared,
    pytest.mark.skipif(not EXPECTED, reason="shared/cases does not lie beside the checkout"),
]

SPEC_NAMES = {
    "ntasks": "tasks",
    "ntasks_per_node": "tasksPerNode",
    "time_limit_s": "timeLimitSeconds",
    "memory_per_node": "memoryPerNode",
    "memory_per_cpu": "memoryPerCpu",
    "memory_per_gpu": "memoryPerGpu",
    "cpus_per_task": "cpusPerTask",
    "cpus_per_gpu": "cpusPerGpu",
    "gpus_per_node": "gpusPerNode",
    "gpus_per_task": "gpusPerTask",
    "gpu_model": "gpuModel",
}


def value_of(key: str, document: dict[str, Any]) -> Any:
    spec, metadata = document["spec"], document["metadata"]
    if key == "name":
        return metadata["annotations"].get(JOB_NAME_ANNOTATION, metadata.get("name"))
    if key == "partitions":
        return spec.get("queues") or [spec["queue"]]
    if key == "signal":
        found = spec["signal"]
        return {
            "name": found["name"],
            "before_end_s": found["beforeEndSeconds"],
            "to": found["to"],
        }
    if key == "array":
        renamed = {"maxParallel": "max_parallel"}
        return {renamed.get(name, name): value for name, value in spec["array"].items()}
    return spec.get(SPEC_NAMES.get(key, key))


def warning_for(unsupported: list[str], submission: Submission) -> None:
    told = [line for line in submission.warnings if "mlsched has no" in line]
    assert len(told) == bool(unsupported)
    for option in unsupported:
        assert option in told[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_public_script_asks_for_what_slurm_says(name: str) -> None:
    expected = dict(EXPECTED[name])
    path = str(CASES / f"{name}.sh")
    word = expected.get("error") or expected.get("or_error")
    if word:
        with pytest.raises(SpecError) as caught:
            read_submission(path)
        assert word in caught.value.message
        return
    submission = read_submission(path)
    job = submission.document
    document = to_document(job.spec, job.metadata, named=submission.named)
    warning_for(expected.pop("unsupported", []), submission)
    assert {key: value_of(key, document) for key in expected} == expected
    assert document["spec"]["launch"] == "once"
    assert document["spec"]["script"] == Path(path).read_text()
