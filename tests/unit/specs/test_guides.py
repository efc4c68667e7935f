from __future__ import annotations

import re
from pathlib import Path

from mlsched.specs.documents import parse_document
from mlsched.specs.sbatch import SUPPORTED_OPTIONS, read_sbatch

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def test_the_guide_lists_each_option_of_slurm_that_is_read() -> None:
    """And no other, but those whose row says that it is done differently."""
    rows = re.findall(r"^\| `(--[a-z-]+)`.* \| (.+) \|$", (GUIDES / "slurm.md").read_text(), re.M)
    listed = {option for option, told in rows if not told.startswith("differently")}
    assert listed == set(SUPPORTED_OPTIONS)


def test_options_that_the_guide_says_are_named_are_named() -> None:
    text = (GUIDES / "slurm.md").read_text().partition("named in the warning:\n")[2]
    options = re.findall(r"`(--[a-z-]+)`", text.partition("\n\n")[0])
    assert len(options) > 5
    script = "#!/bin/sh\n" + "".join(f"#SBATCH {option}=1\n" for option in options)
    assert list(read_sbatch(script).unsupported) == options


def test_the_example_of_the_guide_is_a_job() -> None:
    example = re.search(r"```yaml\n(.+?)```", (GUIDES / "job-spec.md").read_text(), re.S)
    assert example is not None
    job = parse_document(example[1])
    assert job.spec.gpus_per_node == 2
    assert job.spec.time_limit_seconds == 7200
