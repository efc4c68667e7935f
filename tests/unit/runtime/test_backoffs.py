from __future__ import annotations

from mlsched.runtime.backoffs import Backoffs


def test_jobs_are_due_in_the_order_of_their_instants_each_once() -> None:
    backoffs = Backoffs()
    for job_id, until_ms in (("late", 30), ("early", 10), ("gone", 5), ("again", 7)):
        backoffs.set(job_id, until_ms)
    backoffs.discard("gone")
    backoffs.set("again", 20)
    assert backoffs.next_ms() == 10
    assert backoffs.take_over(9) == []
    assert backoffs.take_over(20) == ["early", "again"]
    assert dict(backoffs.until_ms) == {"late": 30}
    assert backoffs.take_over(99) == ["late"]
    assert backoffs.next_ms() is None
