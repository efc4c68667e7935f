"""Why an attempt ended: what came first decides."""

from __future__ import annotations

import pytest

from mlsched.adapters.local.supervisor.verdicts import StartError, Verdict

KEYS = ("cause", "exit_code", "signal", "failed_rank")


def _decide(verdict, out_of_memory=False):
    found = verdict.decide(out_of_memory)
    return tuple(found[key] for key in KEYS)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, ("exited", 0, 0, -1)),
        (7, ("exited", 7, 0, 0)),
        (-9, ("signalled", 137, 9, 0)),
        (-64, ("signalled", 192, 64, 0)),
    ],
)
def test_one_process(status, expected):
    verdict = Verdict(1)
    verdict.end(0, status)
    assert _decide(verdict) == expected


def test_the_first_rank_that_fails_is_the_cause():
    verdict = Verdict(3)
    verdict.end(2, 0)
    verdict.end(1, 9)
    verdict.stop("failed", "")
    verdict.end(0, -15)
    assert _decide(verdict) == ("exited", 9, 0, 1)


def test_a_stop_after_the_last_end_changes_nothing():
    verdict = Verdict(1)
    verdict.end(0, 0)
    verdict.stop("stopped", "was asked to end")
    assert verdict.decide(False)["message"] == ""
    assert _decide(verdict) == ("exited", 0, 0, -1)


@pytest.mark.parametrize(("status", "code", "number"), [(0, 0, 0), (-15, 143, 15), (3, 3, 0)])
def test_an_end_after_a_stop_is_a_stop_with_its_exit_code(status, code, number):
    verdict = Verdict(1)
    verdict.stop("stopped", "was asked to end")
    verdict.end(0, status)
    assert _decide(verdict) == ("stopped", code, number, -1)


def test_the_first_cause_stays():
    verdict = Verdict(1)
    verdict.stop("time_limit", "too long")
    verdict.stop("stopped", "was asked to end")
    verdict.end(0, -9)
    found = verdict.decide(False)
    assert (found["cause"], found["message"]) == ("time_limit", "too long")


def test_a_start_that_failed_is_told_as_such():
    verdict = Verdict(2)
    verdict.refuse(StartError("not_found", 127, "command not found: x"), 1)
    verdict.stop("failed", "")
    verdict.end(1, 127)
    verdict.end(0, -9)
    assert _decide(verdict) == ("not_found", 127, 0, 1)


def test_a_start_that_failed_because_of_a_stop_is_a_stop():
    verdict = Verdict(1)
    verdict.stop("stopped", "was asked to end")
    verdict.refuse(StartError("cannot_start", None, "x"), 0)
    verdict.end(0, -15)
    assert _decide(verdict)[0] == "stopped"


def test_a_kill_by_the_kernel_makes_a_failure_out_of_memory():
    verdict = Verdict(1)
    verdict.end(0, 1)
    assert _decide(verdict, out_of_memory=True)[:2] == ("out_of_memory", 1)
    verdict = Verdict(1)
    verdict.end(0, 0)
    assert _decide(verdict, out_of_memory=True)[:2] == ("exited", 0)


def test_an_end_that_never_came_has_no_exit_code():
    verdict = Verdict(1)
    verdict.stop("stopped", "was asked to end")
    assert verdict.decide(False)["exit_code"] is None


def test_messages_are_bounded():
    verdict = Verdict(1)
    verdict.refuse(StartError("cannot_start", None, "x" * 10_000))
    assert len(verdict.decide(False)["message"]) <= 500
