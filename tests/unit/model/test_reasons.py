"""The codes of reasons are a contract, so each one is documented."""

from __future__ import annotations

import re
from pathlib import Path

from mlsched.model.reasons import ReasonCode

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "reasons.md"


def test_the_guide_names_every_code_and_no_other() -> None:
    named = [
        code
        for line in GUIDE.read_text().splitlines()
        if line.startswith(("| `", "`"))
        for code in re.findall(r"`([A-Z][A-Za-z]+)`", line.split("|")[1] if "|" in line else line)
    ]
    assert sorted(named) == sorted(ReasonCode)


def test_the_guide_lists_reasons_to_wait_in_the_order_of_their_severity() -> None:
    waits = GUIDE.read_text().split("## It waits")[1].split("## It runs")[0]
    listed = re.findall(r"^\| `(\w+)`", waits, re.M)
    assert listed == [code for code in ReasonCode if code in listed]
