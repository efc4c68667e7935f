"""Completion of job names: from a cache, in any state of it, without the service."""

from __future__ import annotations

from mlsched.cli.completing import NAMES_MAX, complete_job, read_names, remember
from mlsched.cli.session import Session


def test_names_that_were_seen_are_completed():
    session = Session()
    remember(session, ["train-1", "eval-1"])
    remember(session, ["train-2"])
    assert complete_job("train") == ["train-2", "train-1"]
    assert complete_job("x") == []


def test_without_a_cache_there_is_nothing_and_no_error():
    assert complete_job("") == []


def test_a_damaged_cache_is_no_error():
    session = Session()
    path = session.client.paths.cache_dir / "job-names"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe\x00")
    assert complete_job("") == []
    remember(session, ["a-1"])
    assert complete_job("") == ["a-1"]


def test_a_cache_that_cannot_be_written_is_no_error(installation):
    (installation / "cache").write_text("a file")
    remember(Session(), ["a-1"])
    assert complete_job("") == []


def test_the_cache_stays_small():
    session = Session()
    remember(session, [f"a-{n}" for n in range(NAMES_MAX + 100)])
    assert len(read_names(session.client.paths.cache_dir / "job-names")) == NAMES_MAX
