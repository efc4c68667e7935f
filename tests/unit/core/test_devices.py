"""Which names of GPUs mean which devices."""

from __future__ import annotations

import pytest

from mlsched.core.devices import describe, matches_model
from mlsched.testing.builders import device


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ("H100", True),
        ("h100", True),
        ("NVIDIA-H100-80GB", True),
        ("H100-80GB-HBM3", True),
        ("v100|h100", True),
        ("A100", False),
        ("H10", False),
        ("h100-40gb", False),
        ("|", False),
    ],
)
def test_a_model_is_found_by_its_words(asked: str, matches: bool) -> None:
    assert matches_model("NVIDIA H100 80GB HBM3", asked) is matches


def test_what_exists_is_told_by_kind() -> None:
    devices = (device("1"), device("2"), device("3", "Tesla T4", 16))
    assert describe(devices) == "2 x NVIDIA H100 80GB HBM3, 1 x Tesla T4"
    assert describe(()) == "no GPU"
