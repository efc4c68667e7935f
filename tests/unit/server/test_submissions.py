"""Names that are made from commands, and requests that can never fit."""

from __future__ import annotations

import pytest

from mlsched.core.ledger import Ledger
from mlsched.errors import NeverFitsError, SpecError
from mlsched.model.specs import JobSpec
from mlsched.server.submissions import Request, derive_base, refuse_what_never_fits
from mlsched.testing.builders import node, spec


@pytest.mark.parametrize(
    ("command", "base"),
    [
        (("python", "train.py", "--lr", "1"), "train"),
        (("python3.11", "-u", "/home/a/Train_Model.py"), "train-model"),
        (("python", "-c", "print(1)"), "python"),
        (("/usr/bin/sleep", "5"), "sleep"),
        (("bash", "-c", "echo"), "bash"),
        (("sh", "run.sh"), "run"),
        (("torchrun", "--nproc-per-node=2", "t.py"), "torchrun"),
        (("env", "A=b", "python", "x.py"), "x"),
        (("ü",), "job"),
    ],
)
def test_a_name_is_made_from_what_is_run(command: tuple[str, ...], base: str) -> None:
    assert derive_base(JobSpec(command=command)) == base


def test_a_script_is_called_after_its_file() -> None:
    assert derive_base(JobSpec(script="#!/bin/sh\n"), "/tmp/train.sbatch") == "train"
    assert derive_base(JobSpec(script="#!/bin/sh\n")) == "script"


def test_more_than_exists_is_refused_with_what_exists() -> None:
    ledger = Ledger([node("a", 2)])
    with pytest.raises(NeverFitsError) as caught:
        refuse_what_never_fits(spec(4), ledger)
    assert "asks for 4 GPUs, and what exists is 2 x NVIDIA H100" in caught.value.message
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("environment", [["A=1"], "A=1", {"A": 1}, {"A": None}])
def test_an_environment_that_is_none_is_refused_and_not_left_out(environment: object) -> None:
    document = {"apiVersion": "mlsched.io/v1alpha1", "kind": "MLJob", "spec": {"command": ["a"]}}
    assert Request({"document": document, "environment": {"A": "1"}}).environment == {"A": "1"}
    assert Request({"document": document}).environment == {}
    with pytest.raises(SpecError, match="environment"):
        Request({"document": document, "environment": environment})
