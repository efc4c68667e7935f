"""A pipeline as a job: the command of its ranks, and its file on the way to other machines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlsched.api.pipelines.jobs import (
    MEMBER_LINE,
    SOURCE_BYTES_MAX,
    MemberArguments,
    build_spec,
    read_source,
    unpack_source,
)
from mlsched.api.pipelines.loading import Target
from mlsched.errors import SpecError
from mlsched.specs.limits import validate_spec

ARGUMENTS = MemberArguments("dask", 4, 1 << 30, "2026-11-26", ("rows=3", "name=a b"), "json")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "rides.py"
    made.write_bytes("# -*- coding: utf-8 -*-\r\nname = 'Zürich'\n".encode())
    return made


def test_on_this_machine_the_file_runs_where_it_lies(file: Path) -> None:
    spec = build_spec(Target(file, "daily"), ARGUMENTS, nodes=3, travels=False)
    assert spec.command[:5] == (sys.executable, "-m", "mlsched", "pipeline", "member")
    assert spec.command[5] == f"{file}:daily"
    assert spec.command[6:] == (
        *("--engine", "dask", "--cpus", "4", "--memory", str(1 << 30)),
        *("--interval", "2026-11-26", "--set", "rows=3", "--set", "name=a b"),
        *("--output", "json"),
    )
    assert (spec.script, spec.nodes, spec.gang_token) == ("", 3, True)


def test_a_single_node_needs_no_secret(file: Path) -> None:
    spec = build_spec(Target(file), MemberArguments("ray", 1), nodes=1, travels=False)
    assert not spec.gang_token
    assert spec.command[5:] == (str(file), "--engine", "ray", "--cpus", "1")


def test_a_file_that_travels_arrives_under_its_name_line_by_line(
    file: Path, tmp_path: Path
) -> None:
    spec = build_spec(Target(file, "daily"), ARGUMENTS, nodes=2, travels=True)
    validate_spec(spec)
    assert spec.command[-2:] == ("--source", "rides.py:daily")
    script, folder = tmp_path / "script", tmp_path / "there"
    script.write_text(spec.script, encoding="utf-8")
    folder.mkdir()
    target = unpack_source(script, "rides.py:daily", folder)
    assert target == Target(folder / "rides.py", "daily")
    assert target.file.read_text(encoding="utf-8") == ("# -*- coding: utf-8 -*-\nname = 'Zürich'\n")


def test_what_cannot_travel_is_told_with_the_limit(file: Path) -> None:
    file.write_bytes(b"#" * (SOURCE_BYTES_MAX + 1))
    with pytest.raises(SpecError, match="200 KiB of text travel"):
        read_source(file)
    file.write_bytes(b"name = '\xfc'\n")
    with pytest.raises(SpecError, match="not UTF-8 at byte 8"):
        read_source(file)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("#!/bin/sh\n", "rides.py:daily"),
        (MEMBER_LINE, "../rides.py:daily"),
        (MEMBER_LINE, "/etc/rides.py"),
        (MEMBER_LINE, "rides.sh"),
    ],
)
def test_what_submit_did_not_make_is_refused(tmp_path: Path, text: str, source: str) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    with pytest.raises(SpecError, match="a script that 'mlsched pipeline submit' made"):
        unpack_source(script, source, tmp_path)
