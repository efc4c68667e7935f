"""Records of pipeline runs: whole after any crash, and listed whatever lies beside them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlsched.adapters.local.processes import read_identity
from mlsched.api.pipelines import records as module
from mlsched.api.pipelines.records import (
    PipelineRun,
    PipelineRuns,
    RunError,
    RunProcess,
    RunState,
    make_id,
    shorten_ids,
    this_process,
)
from mlsched.errors import ConfigError, NotFoundError, SpecError, StoreFullError


def make_run(number: int = 0, **more: object) -> PipelineRun:
    fields = {
        "id": f"20261126-1015{number:05d}-abcdef",
        "pipeline": "paces",
        "file": "/rides.py",
        "name": "daily",
        "directory": "/",
        "started_at": "2026-11-26T10:15:00.000Z",
        "process": this_process(),
        **more,
    }
    return PipelineRun(**fields)


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def runs(tmp_path: Path, problems: list[str]) -> PipelineRuns:
    return PipelineRuns(tmp_path / "pipelines", problems.append)


def test_a_record_comes_back_as_it_was_written(runs, problems):
    error = RunError("ValueError", "bad ü", "again", "File x")
    run = make_run(
        parameters={"rows": "1"}, counts={"rows_in": 1}, error=error, progress={"tasks": 2}
    )
    runs.create(run)
    assert runs.read(run.id) == run
    assert (runs.folder.stat().st_mode & 0o777, problems) == (0o700, [])
    [file] = runs.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_folder_there_are_no_runs_and_nothing_is_made(runs):
    assert runs.read_newest() == []
    with pytest.raises(
        NotFoundError, match="no run is recorded here that has the id or the name 'paces'"
    ):
        runs.find("paces")
    assert not runs.folder.exists()


def test_ids_sort_by_time_and_are_read_the_newest_first(runs):
    assert module._ID.fullmatch(make_id())
    ids = [make_id() for _ in range(50)]
    assert [one[:18] for one in ids] == sorted(one[:18] for one in ids)
    for number in (1, 3, 2):
        runs.create(make_run(number))
    assert [run.id[13:18] for run in runs.read_newest(2)] == ["00003", "00002"]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("20261126-101500002-abcdef", 2),
        ("20261126-101500001", 1),
        ("paces", 3),
        ("other", 0),
    ],
)
def test_a_run_is_found_by_id_by_its_beginning_and_by_its_pipeline(runs, word, number):
    runs.create(make_run(0, pipeline="other"))
    for at in (1, 2, 3):
        runs.create(make_run(at))
    assert runs.find(word).id == make_run(number).id


@pytest.mark.parametrize("word", ["by_zone", "rides.py", "rides.py:by_zone"])
def test_a_run_is_found_by_function_and_file_and_what_else_has_the_name_is_told(
    runs, problems, word
):
    runs.create(make_run(1, pipeline="a", dataset="/a", name="by_zone"))
    runs.create(make_run(2, pipeline="a", dataset="/a", name="by_zone"))
    assert (runs.find(word).id, problems) == (make_run(2).id, [])
    runs.create(make_run(3, pipeline="b", dataset="/b", name="by_zone"))
    assert runs.find(word).id == make_run(3).id
    [told] = problems
    assert told.startswith(f"{word!r} is taken for {make_run(3).id}; others: {make_run(2).id} (")
    assert told.endswith("(rides.py:by_zone to /a).")


def test_the_name_of_a_dataset_goes_before_that_of_a_function(runs, problems):
    runs.create(make_run(1, pipeline="daily", dataset="/daily", name="make"))
    runs.create(make_run(2, pipeline="other", dataset="/other", name="daily"))
    assert runs.find("daily").id == make_run(1).id
    assert make_run(2).id in problems[0]


def test_an_empty_word_is_no_run_even_where_a_dataset_has_no_name(runs):
    runs.create(make_run(1, pipeline="", dataset="/"))
    with pytest.raises(SpecError, match="found nothing"):
        runs.find("")


def test_a_pipeline_whose_name_begins_like_ids_is_found(runs):
    runs.create(make_run(1, pipeline="20261126"))
    runs.create(make_run(2))
    assert runs.find("20261126").id == make_run(1).id


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("2026", "2 runs have ids that begin with '2026'"),
        ("../../etc/passwd", "no run"),
        ("*", "no run"),
        ("a\x00b", "no run"),
        ("\udcff", "no run"),
        ("x" * 100_000, "no run"),
    ],
)
def test_words_that_name_no_run_or_several(runs, word, told):
    for at in (1, 2):
        runs.create(make_run(at))
    with pytest.raises(NotFoundError, match=told) as caught:
        runs.find(word)
    assert len(caught.value.message) < 200


def test_files_that_are_no_records_are_told_of_and_left_out(runs, problems, tmp_path):
    good, name = make_run(1), "20261126-10150000{}-abcdef.json"
    runs.create(good)
    folder = runs.folder
    whole = (folder / f"{good.id}.json").read_bytes()
    (folder / "notes.txt").write_text("mine")
    (folder / os.fsdecode(b"\xff\x1b[2J.json")).write_text("{}")
    (folder / name.format(2)).write_bytes(whole[: len(whole) // 2])
    (folder / name.format(3)).write_bytes(b"")
    (folder / name.format(4)).write_bytes(b"[" * 100_000)
    (folder / name.format(5)).write_bytes(b"\xff\xfe")
    (folder / name.format(6)).write_bytes(whole)
    (folder / name.format(7)).mkdir()
    os.mkfifo(folder / name.format(8))
    (folder / name.format(9)).symlink_to(folder / f"{good.id}.json")
    newer = whole.replace(b'"format": 1', b'"format": 9').replace(b"00001-", b"00010-")
    (folder / "20261126-101500010-abcdef.json").write_bytes(newer)
    (folder / ".20261126-101500011-abcdef.json.1-ff").write_bytes(b"half")
    assert runs.read_newest() == [good]
    assert runs.read_newest() == [good]
    assert len(problems) == 11
    assert all("left out" in line for line in problems)


@pytest.mark.parametrize("time", ["", "yesterday", "2026-11-26T10:15:00", "9" * 1000])
@pytest.mark.parametrize("field", ["started_at", "ended_at"])
def test_a_record_whose_times_are_none_is_damaged(runs, problems, field, time):
    runs.create(make_run(1, **{field: time}))
    runs.create(make_run(2))
    assert [run.id for run in runs.read_newest()] == [make_run(2).id]
    assert ["is damaged" in line for line in problems] == [True]


def test_a_file_larger_than_any_record_is_not_read(runs, problems, monkeypatch):
    monkeypatch.setattr(module, "_BYTES_MAX", 100)
    runs.create(make_run())
    assert runs.read_newest() == []
    assert "larger than 100 bytes" in problems[0]


def test_unknown_fields_of_a_record_are_passed_over(runs):
    run = make_run()
    runs.create(run)
    path = runs.folder / f"{run.id}.json"
    path.write_text(path.read_text().replace("{", '{"later": [1],', 1))
    assert runs.read(run.id) == run


CRASHING = """
import os, sys
from pathlib import Path
from mlsched.api import functions
from mlsched.api.pipelines.records import *

folder, crash_at = Path(sys.argv[1]), int(sys.argv[2])
count = 0

def counted(call):
    def crashes(*args, **more):
        global count
        count += 1
        if count == crash_at:
            os._exit(9)
        return call(*args, **more)
    return crashes

for name in ("open", "fsync", "replace", "rename", "unlink", "close"):
    setattr(os, name, counted(getattr(os, name)))
fdopen = os.fdopen

def half(handle, mode, *more):
    file = fdopen(handle, mode, *more)
    write = file.write

    def write_in_two(data):
        write(data[:40])
        file.flush()
        counted(int)()
        write(data[40:])

    if "w" in mode:
        file.write = write_in_two
    return file

os.fdopen = half
def run(state):
    return PipelineRun(id="20261126-101500000-abcdef", pipeline="p", file="/f.py", name="n",
                       directory="/", state=state, started_at="2026-11-26T10:15:00Z")
runs = PipelineRuns(folder)
runs.create(run(RunState.RUNNING))
print("begun", flush=True)
runs.save(run(RunState.SUCCEEDED))
print("ended", flush=True)
"""


@pytest.mark.timeout(300)
def test_a_crash_between_any_two_steps_leaves_a_whole_record(tmp_path):
    ended = b""
    for crash_at in range(1, 60):
        folder = tmp_path / str(crash_at)
        ended = subprocess.run(
            [sys.executable, "-c", CRASHING, str(folder), str(crash_at)],
            stdout=subprocess.PIPE, check=False, timeout=60,
        ).stdout  # fmt: skip
        problems: list[str] = []
        found = [run.state for run in PipelineRuns(folder, problems.append).read_newest()]
        assert problems == []
        if b"ended" in ended:
            assert found == ["SUCCEEDED"]
            break
        if b"begun" in ended:
            assert found in (["RUNNING"], ["SUCCEEDED"])
        else:
            assert found in ([], ["RUNNING"])
    assert b"ended" in ended
    assert crash_at > 8


def test_a_full_disk_keeps_the_record_before(runs, monkeypatch):
    run = make_run()
    runs.create(run)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFullError, match="No space left"):
        runs.save(replace(run, state=RunState.FAILED))
    assert runs.read(run.id) == run
    assert len(list(runs.folder.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make"):
        PipelineRuns(tmp_path / "file" / "pipelines").create(make_run())


def test_running_with_a_process_that_is_gone_is_interrupted(runs):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = read_identity(child.pid)
        process = RunProcess(socket.gethostname(), child.pid, found.start_time, found.boot_id)
        runs.create(make_run(process=process))
        assert runs.find("paces").state is RunState.RUNNING
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
    assert runs.find("paces").state is RunState.INTERRUPTED


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "RUNNING"),
        ({"start_time": 1}, "INTERRUPTED"),
        ({"boot_id": "another"}, "INTERRUPTED"),
        ({"boot_id": "another", "host": "another"}, "RUNNING"),
    ],
)
def test_a_process_is_known_by_its_start_and_boot_and_only_on_its_host(runs, changes, state):
    runs.create(make_run(process=replace(this_process(), **changes)))
    assert runs.find("paces").state == state


def test_a_run_that_has_ended_stays_so_whatever_its_process_does(runs):
    gone = replace(this_process(), start_time=1)
    runs.create(make_run(process=gone, state=RunState.SUCCEEDED))
    assert runs.find("paces").state is RunState.SUCCEEDED


def test_the_oldest_records_are_removed_but_not_of_runs_under_way(runs, monkeypatch):
    monkeypatch.setattr(module, "RUNS_MAX", 3)
    runs.create(make_run(0))
    for number in range(1, 6):
        runs.create(make_run(number, state=RunState.SUCCEEDED))
    assert [int(run.id[13:18]) for run in runs.read_newest()] == [5, 4, 3, 0]


def test_what_a_crashed_writer_left_is_removed_when_it_is_old(runs):
    runs.create(make_run(1))
    old, new = runs.folder / ".old.json.1-ff", runs.folder / ".new.json.1-ff"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (1, 1))
    runs.create(make_run(2))
    assert (old.exists(), new.exists()) == (False, True)


def test_short_ids_are_unique_beginnings():
    ids = ["20261126-101500001-aaaaaa", "20261126-101500001-aaaaab", "20261127-000000000-bbbbbb"]
    shown = shorten_ids(ids)
    assert shown[ids[2]] == "20261127-000000"
    assert [shown[one] for one in ids[:2]] == ids[:2]
    assert shorten_ids([]) == {}
