"""When an attempt is warned, stopped and killed: monotonic seconds only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mlsched.adapters.local import supervisor
from mlsched.adapters.local.supervisor.deadlines import DAEMON_GRACE_S, Deadlines

FOLDER = Path(supervisor.__file__).parent


def test_a_job_without_a_limit_has_no_deadline():
    due = Deadlines()
    due.start(100.0, 0, 60)
    assert due.next() is None


def test_the_notice_comes_before_the_limit():
    due = Deadlines()
    due.start(100.0, 600, 60)
    assert (due.notice_at, due.limit_at) == (640.0, 700.0)
    assert due.next() == 640.0


def test_a_notice_longer_than_the_limit_is_due_at_once():
    due = Deadlines()
    due.start(100.0, 10, 60)
    assert due.notice_at == 100.0


def test_without_a_notice_only_the_limit_counts():
    due = Deadlines()
    due.start(100.0, 10, None)
    assert due.next() == 110.0


def test_a_stop_ends_notice_and_limit():
    due = Deadlines()
    due.start(100.0, 600, 60)
    due.stop(200.0, 30)
    assert (due.notice_at, due.limit_at, due.kill_at) == (None, None, 230.0)


@pytest.mark.parametrize(("grace_s", "kill_at"), [(5, 206.0), (60, 230.0)])
def test_a_later_stop_can_only_shorten(grace_s, kill_at):
    due = Deadlines()
    due.stop(200.0, 30)
    due.stop(201.0, grace_s)
    assert due.kill_at == kill_at


def test_daemons_get_a_short_grace_only():
    due = Deadlines()
    due.clean(200.0, 600)
    assert due.kill_at == 200.0 + DAEMON_GRACE_S
    due = Deadlines()
    due.clean(200.0, 1)
    assert due.kill_at == 201.0


def test_the_wall_clock_is_only_ever_written_down():
    """A clock that is set back changes nothing: wherever it is read, it becomes a time stamp."""
    uses = []
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_clock = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time"
            if is_clock and node.attr not in ("monotonic", "sleep"):
                uses.append((path.name, node.attr))
    assert set(uses) == {
        ("pumps.py", "time_ns"),
        ("pumps.py", "strftime"),
        ("pumps.py", "gmtime"),
        ("runs.py", "time_ns"),
    }
    text = (FOLDER / "runs.py").read_text()
    stamps = ("claimed_at_ms", "started_at_ms", "ended_at_ms")
    lines = [line for line in text.splitlines() if "time.time_ns()" in line]
    assert all(any(stamp in line for stamp in stamps) for line in lines)
