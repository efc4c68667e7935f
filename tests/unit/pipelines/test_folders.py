"""Folders that are gone soon after their process is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlsched_pipelines.folders import make_held_folder


def test_a_folder_that_another_process_cleared_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def make_and_lose_the_first(prefix: str, dir: str) -> str:  # noqa: A002 - as tempfile has it
        made.append(make(prefix=prefix, dir=dir))
        if len(made) == 1:
            shutil.rmtree(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose_the_first)
    folder, handle = make_held_folder("mine-", str(tmp_path))
    assert (str(folder), folder.is_dir()) == (made[1], True)
    os.close(handle)


def test_folders_go_once_nobody_holds_them(tmp_path: Path) -> None:
    (tmp_path / "other-1").mkdir()
    (tmp_path / "mine-file").touch()
    first, handle = make_held_folder("mine-", str(tmp_path))
    second, other = make_held_folder("mine-", str(tmp_path))
    assert first.is_dir()
    os.close(handle)
    third, last = make_held_folder("mine-", str(tmp_path))
    left = {second.name, third.name, "other-1", "mine-file"}
    assert {path.name for path in tmp_path.iterdir()} == left
    os.close(other)
    os.close(last)


def test_what_a_killed_member_left_is_removed_by_the_next() -> None:
    code = (
        "import sys\n"
        "from mlsched_pipelines.members import private_folder\n"
        "with private_folder() as folder:\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    folders = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as member:
            assert member.stdout is not None
            folders.append(Path(member.stdout.readline().strip()))
            assert folders[-1].is_dir()
            member.kill()
    assert not folders[0].exists()
    shutil.rmtree(folders[1])
