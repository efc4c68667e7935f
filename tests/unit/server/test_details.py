"""Files that a job writes beside its logs: read with care, since anything may be there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlsched.server.details import JOB_FILE_BYTES_MAX, read_job_file

NAME = "progress.json"


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"step": 3}')
    assert read_job_file(tmp_path, NAME) == {"step": 3}
    assert read_job_file(None, NAME) is None
    assert read_job_file(tmp_path, "metrics.json") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b'{"a": 1', b'{"a": "\xff"}', b"[" * 5000, b" " * JOB_FILE_BYTES_MAX + b"{}"],
    ids=["empty", "list", "cut", "no UTF-8", "deep", "large"],
)
def test_what_is_no_small_json_object_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert read_job_file(tmp_path, NAME) is None


@pytest.mark.timeout(10)
def test_nothing_that_is_no_file_is_waited_for_or_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "target").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("fifo", "directory", "link"):
        assert read_job_file(tmp_path, name) is None
