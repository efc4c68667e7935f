"""The files of an attempt, also those that a power cut left as they should not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsched.adapters.local.attempts import AttemptDirectory, Claim

DAMAGED = (b"", b"\0\0\0\0", b'{"pid": "\xff\xfe"}', b'{"cause": "\xff"}', b"[]", b'{"cause":')


@pytest.fixture
def directory(tmp_path: Path) -> AttemptDirectory:
    made = AttemptDirectory(tmp_path, "job-1", 1)
    made.create()
    return made


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_tells_nothing_and_hinders_nobody(
    directory: AttemptDirectory, content: bytes
) -> None:
    for name in ("started", "exit", "cgroups", "stuck", "launch", "run"):
        (directory.path / f"{name}.json").write_bytes(content)
    assert directory.read_started() is None
    assert directory.read_outcome() is None
    assert directory.read_groups() == []
    assert directory.read_stuck() == []
    assert directory.read_launch() == {}
    assert directory.read_claim() == Claim()
