"""One attempt from its first pod to its end: what is told, once, and what is deleted."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.kubernetes.tracks import Track
from mlsched.model.jobs import EndCause, Outcome
from tests.unit.kubernetes.conftest import OWNER, ended, own_pod, placed_job, running, waiting

STOPPED = Outcome(EndCause.STOPPED, 143, 15)
DELETING = {"deletionTimestamp": "2026-01-01T00:00:02Z"}


def test_an_attempt_starts_and_succeeds() -> None:
    track = Track(placed_job(), OWNER)
    track.note(own_pod(status=running()), is_gone=False)
    assert track.decide().started_at_ms is not None
    assert track.decide().started_at_ms is None
    track.note(own_pod(status=ended(0)), is_gone=False)
    found = track.decide().ended
    assert found is not None
    assert (found.cause, found.exit_code) == (EndCause.EXITED, 0)


def test_the_first_failure_of_a_gang_ends_the_others_and_then_the_attempt() -> None:
    track = Track(placed_job(2), OWNER)
    track.note(own_pod(0, status=running(0)), is_gone=False)
    track.note(own_pod(1, status=ended(7, 1)), is_gone=False)
    first = track.decide()
    assert first.deletes
    assert first.ended is None
    track.note(own_pod(0, metadata=DELETING, status=ended(143)), is_gone=True)
    found = track.decide().ended
    assert found is not None
    assert (found.exit_code, found.failed_rank) == (7, 1)


def test_a_stop_that_comes_after_the_end_changes_nothing() -> None:
    track = Track(placed_job(), OWNER)
    track.note(own_pod(status=ended(0)), is_gone=False)
    track.rule(STOPPED)
    found = track.decide().ended
    assert found is not None
    assert found.exit_code == 0


def test_a_stopped_attempt_ends_once_its_pods_are_gone() -> None:
    track = Track(placed_job(), OWNER)
    track.note(own_pod(status=running()), is_gone=False)
    track.rule(STOPPED)
    assert track.decide().ended is None
    track.note(own_pod(metadata=DELETING, status=ended(0)), is_gone=True)
    found = track.decide().ended
    assert found is not None
    assert found.cause is EndCause.STOPPED


def test_nothing_ends_while_pods_may_still_be_made() -> None:
    track = Track(placed_job(2), OWNER)
    track.is_creating = True
    track.rule(STOPPED)
    assert track.decide().ended is None
    track.is_creating = False
    assert track.decide().ended is not None


def test_an_image_that_never_comes_is_hopeless_at_once() -> None:
    track = Track(placed_job(), OWNER)
    track.note(own_pod(status=waiting("ErrImageNeverPull")), is_gone=False)
    assert track.decide().deletes
    track = Track(placed_job(), OWNER)
    track.note(own_pod(status=waiting("ImagePullBackOff")), is_gone=False)
    found = track.decide()
    assert found.trouble is not None
    assert not found.deletes


def test_a_lost_node_ends_a_gang_although_its_pod_still_says_that_it_runs() -> None:
    track = Track(placed_job(2), OWNER)
    track.note(own_pod(0, status=running(0)), is_gone=False)
    track.note(own_pod(1, status=running(1)), is_gone=False)
    track.lose([1], "node-b was removed")
    assert track.decide().ended is None
    track.note(own_pod(0, metadata=DELETING, status=ended(137)), is_gone=True)
    found = track.decide().ended
    assert found is not None
    assert found.cause is EndCause.NODE_LOST


STATES = st.sampled_from(["missing", "running", "ok", "failed", "gone", "deleting"])


@given(st.lists(st.lists(STATES, min_size=3, max_size=3), max_size=6), st.booleans())
def test_an_end_is_told_once_and_only_when_nothing_runs(
    history: list[list[str]], stops: bool
) -> None:
    track = Track(placed_job(3), OWNER)
    over: dict[int, bool] = {}
    ends = 0
    for step, states in enumerate(history):
        for group, state in enumerate(states):
            if state == "missing" or over.get(group):
                continue
            _note(track, group, state)
            over[group] = state in ("ok", "failed", "gone")
        if stops and step == 1:
            track.rule(STOPPED)
        if track.has_ended:
            break
        if track.decide().ended is not None:
            ends += 1
            assert all(over.values())
    assert ends <= 1


def _note(track: Track, group: int, state: str) -> None:
    status = {
        "running": running(group),
        "deleting": running(group),
        "ok": ended(0, group),
        "failed": ended(1, group),
        "gone": ended(143, group),
    }[state]
    metadata = DELETING if state in ("gone", "deleting") else {}
    track.note(own_pod(group, metadata=metadata, status=status), is_gone=state == "gone")


def test_every_order_of_two_ends_gives_the_same_verdict() -> None:
    codes = set()
    for order in itertools.permutations([(0, 3), (1, 4)]):
        track = Track(placed_job(2), OWNER)
        for group, code in order:
            at = f"2026-01-01T00:00:0{code}Z"
            track.note(own_pod(group, status=ended(code, group, finishedAt=at)), is_gone=False)
        found = track.decide().ended
        assert found is not None
        codes.add(found.exit_code)
    assert codes == {3}
