"""What changes of MLJobs mean for whoever waits."""

from __future__ import annotations

import pytest

from mlsched.api.clusters.names import Reference
from mlsched.api.clusters.watches import Changes
from tests.unit.api.clusters.conftest import record

RUNNING = {"state": "RUNNING", "attempt": 1}
DONE = {"state": "SUCCEEDED", "attempt": 1, "exitCode": 0}


def states(events):
    return [(event["name"], event["state"]) for event in events]


def test_a_watch_is_not_over_before_its_first_list():
    changes = Changes([Reference("team", "train")], "ended")
    assert not changes.is_over


def test_each_change_is_told_once_until_the_end():
    changes = Changes([Reference("team", "train")], "ended")
    assert states(changes.replace_all([record()])) == [("train", "PENDING")]
    assert states(changes.put(record())) == []
    assert states(changes.put(record(status=RUNNING))) == [("train", "RUNNING")]
    assert not changes.is_over
    assert states(changes.put(record(status=DONE))) == [("train", "SUCCEEDED")]
    assert changes.is_over


@pytest.mark.parametrize(("until", "is_over"), [("running", True), ("ended", False)])
def test_what_is_waited_for_counts(until, is_over):
    changes = Changes([Reference("team", "train")], until)
    list(changes.replace_all([record(status=RUNNING)]))
    assert changes.is_over is is_over


def test_an_array_ends_with_its_last_element():
    spec = {"array": "0-1"}
    half = {"state": "RUNNING", "elements": [{"index": 0, **DONE}, {"index": 1, **RUNNING}]}
    full = {"state": "SUCCEEDED", "elements": [{"index": 0, **DONE}, {"index": 1, **DONE}]}
    changes = Changes([Reference("team", "train")], "ended")
    list(changes.replace_all([record(spec=spec, status=half)]))
    assert not changes.is_over
    assert states(changes.put(record(spec=spec, status=full))) == [("train[1]", "SUCCEEDED")]
    assert changes.is_over


def test_one_element_is_waited_for_alone():
    spec = {"array": "0-1"}
    half = {"state": "RUNNING", "elements": [{"index": 0, **DONE}]}
    changes = Changes([Reference("team", "train", 0)], "ended")
    found = changes.replace_all([record(spec=spec, status=half)])
    assert states(found) == [("train[0]", "SUCCEEDED")]
    assert changes.is_over


@pytest.mark.parametrize("by_list", [False, True])
def test_a_job_that_is_deleted_ends_as_cancelled(by_list):
    changes = Changes([Reference("team", "train")], "ended")
    list(changes.replace_all([record(status=RUNNING)]))
    events = changes.replace_all([]) if by_list else changes.remove("team/train")
    (event,) = events
    assert (event["state"], event["reason"]["message"]) == ("CANCELLED", "its MLJob was deleted")
    assert changes.is_over


def test_without_names_open_jobs_and_new_ones_are_told():
    changes = Changes(None, None)
    listed = changes.replace_all([record("old", status=DONE), record("open")])
    assert states(listed) == [("open", "PENDING")]
    assert states(changes.put(record("new"))) == [("new", "PENDING")]
    assert states(changes.put(record("new", status=DONE))) == [("new", "SUCCEEDED")]
    assert not changes.is_over


def test_what_is_missing_is_named():
    changes = Changes([Reference("team", "train"), Reference("team", "gone")], "ended")
    list(changes.replace_all([record()]))
    assert changes.missing() == Reference("team", "gone")
    assert Changes([Reference("team", "train", 5)], "ended").missing() is not None
