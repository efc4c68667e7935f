"""The folder of a process for files on their way to a bucket."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from mlsched_pipelines.stores import scratches


def test_a_folder_that_another_process_cleared_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def make_and_lose_the_first(prefix: str) -> str:
        made.append(make(prefix=prefix, dir=tmp_path))
        if len(made) == 1:
            shutil.rmtree(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose_the_first)
    folder, handle = scratches._make_folder()
    try:
        assert (str(folder), folder.is_dir()) == (made[1], True)
        scratches._remove_abandoned(tmp_path)
        assert folder.is_dir()
    finally:
        os.close(handle)
    scratches._remove_abandoned(tmp_path)
    assert not folder.exists()
