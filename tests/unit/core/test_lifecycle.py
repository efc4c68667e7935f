"""The table of states, and what an outcome makes of a job."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from mlsched.core.lifecycle import (
    REQUEUES_MAX,
    TRANSITIONS,
    Move,
    advance,
    close_attempt,
    is_satisfied,
    judge,
)
from mlsched.errors import InvariantError
from mlsched.model.jobs import ENDED_STATES, Attempt, EndCause, Job, JobState, Outcome
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.testing.builders import job

WHY = Reason(ReasonCode.RUNNING, "because")


@pytest.mark.parametrize(("state", "move"), [*itertools.product(JobState, Move)])
def test_only_the_moves_of_the_table_are_possible(state: JobState, move: Move) -> None:
    before = replace(job("j", 1), state=state)
    if (state, move) in TRANSITIONS:
        assert advance(before, move, WHY).state is TRANSITIONS[state, move]
    else:
        with pytest.raises(InvariantError, match="legal history"):
            advance(before, move, WHY)


def test_ended_states_absorb() -> None:
    assert not [state for state, _ in TRANSITIONS if state in ENDED_STATES]


def test_every_state_can_be_reached_and_left_unless_it_is_an_end() -> None:
    assert set(TRANSITIONS.values()) | {JobState.PENDING} == set(JobState)
    assert {state for state, _ in TRANSITIONS} | ENDED_STATES == set(JobState)


def running(**more: object) -> Job:
    return replace(job("j", 1, retries=1), state=JobState.RUNNING, **more)


@pytest.mark.parametrize(
    ("outcome", "job_", "move", "code"),
    [
        (Outcome(EndCause.EXITED, 0), running(), Move.SUCCEED, ReasonCode.COMPLETED),
        (Outcome(EndCause.EXITED, 3), running(), Move.RETRY, ReasonCode.EXITED),
        (Outcome(EndCause.EXITED, 3), running(retries_used=1), Move.FAIL, ReasonCode.EXITED),
        (Outcome(EndCause.SIGNALLED, 139, 11), running(), Move.RETRY, ReasonCode.SIGNALLED),
        (Outcome(EndCause.NOT_FOUND, 127), running(), Move.FAIL, ReasonCode.COMMAND_NOT_FOUND),
        (Outcome(EndCause.TIME_LIMIT, 143, 15), running(), Move.FAIL, ReasonCode.TIME_LIMIT),
        (Outcome(EndCause.OUT_OF_MEMORY, 137, 9), running(), Move.RETRY, ReasonCode.OUT_OF_MEMORY),
        (Outcome(EndCause.STOPPED, 143, 15), running(cancel_requested=True), Move.CANCEL,
         ReasonCode.CANCELLED),
        (Outcome(EndCause.EXITED, 1), running(cancel_requested=True), Move.CANCEL,
         ReasonCode.CANCELLED),
        (Outcome(EndCause.EXITED, 0), running(cancel_requested=True), Move.SUCCEED,
         ReasonCode.COMPLETED),
        (Outcome(EndCause.REVOKED), running(), Move.REVOKE, ReasonCode.PENDING_EVALUATION),
        (Outcome(EndCause.REVOKED), running(cancel_requested=True), Move.CANCEL,
         ReasonCode.CANCELLED),
        (Outcome(EndCause.SUPERVISOR_LOST), running(retries_used=1), Move.FAIL,
         ReasonCode.SUPERVISOR_LOST),
        (Outcome(EndCause.STOPPED, 143, 15), running(), Move.RETRY, ReasonCode.SUPERVISOR_LOST),
        (Outcome(EndCause.STOPPED, 0), running(retries_used=1), Move.FAIL,
         ReasonCode.SUPERVISOR_LOST),
    ],
)  # fmt: skip
def test_what_an_end_makes_of_a_job(
    outcome: Outcome, job_: Job, move: Move, code: ReasonCode
) -> None:
    found, reason = judge(job_, outcome)
    assert (found, reason.code) == (move, code)


@pytest.mark.parametrize(
    "cause", [EndCause.NODE_REBOOTED, EndCause.SUPERVISOR_LOST, EndCause.STOPPED]
)
def test_a_requeued_job_runs_again_when_its_machine_was_lost(cause: EndCause) -> None:
    """Stopped, though nobody cancelled it: a shutdown ends jobs before the machine goes."""
    lost = replace(job("j", 1, requeue=True), state=JobState.RUNNING)
    assert judge(lost, Outcome(cause))[0] is Move.RETRY


def test_lost_machines_are_counted_also_where_the_record_keeps_few_attempts() -> None:
    lost = Outcome(EndCause.NODE_LOST)
    moves = []
    again = replace(job("j", 1, requeue=True), state=JobState.RUNNING, attempts=(Attempt(1),))
    for number in range(2, 9):
        again, move, _ = close_attempt(again, lost)
        moves.append(move)
        again = replace(again, attempts=(Attempt(number),))
    assert moves == [*[Move.RETRY] * REQUEUES_MAX, Move.FAIL, Move.FAIL]
    older = replace(again, requeues_used=0, attempts=(Attempt(1, outcome=lost), Attempt(2)))
    assert close_attempt(older, lost)[0].requeues_used == 2


@pytest.mark.parametrize(
    ("condition", "state", "answer"),
    [
        ("ok", JobState.SUCCEEDED, True),
        ("ok", JobState.FAILED, False),
        ("ok", JobState.CANCELLED, False),
        ("fail", JobState.FAILED, True),
        ("fail", JobState.SUCCEEDED, False),
        ("any", JobState.FAILED, True),
        ("any", JobState.RUNNING, None),
    ],
)
def test_when_a_dependency_is_satisfied(condition: str, state: JobState, answer: object) -> None:
    assert is_satisfied(condition, state) is answer
