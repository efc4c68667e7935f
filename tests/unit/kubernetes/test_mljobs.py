"""MLJob objects as events: in order, with what ended before, and never twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from mlsched.adapters.kubernetes.mljobs import MLJobs
from mlsched.adapters.kubernetes.objects import MLJob
from mlsched.adapters.kubernetes.recorders import Recorder
from mlsched.model.events import CancelRequested, Event, JobRestored, JobWithdrawn
from mlsched.model.jobs import JobState


def mljob(name: str, version: int = 1, *, uid: str = "", **more: Any) -> MLJob:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    } | more.pop("metadata", {})
    body = {"metadata": metadata, "spec": {"command": ["x"]} | more.pop("spec", {}), **more}
    return msgspec.json.decode(json.dumps(body), type=MLJob)


class Seen:
    """The events of objects, without a server."""

    def __init__(self, *objects: MLJob) -> None:
        self.events: list[Event] = []
        self.problems: list[str] = []
        nobody: Any = None
        recorder = self.recorder = Recorder(nobody, now_ms=lambda: 0)
        self.mljobs = MLJobs(nobody, recorder, self.events.append, lambda: 0, self.problems.append)
        for one in objects:
            recorder.reflector.objects[one.metadata.key] = one
        for one in self.mljobs.in_order():
            self.mljobs.observe(None, one)

    @property
    def restored(self) -> dict[str, JobRestored]:
        return {e.job.name: e for e in self.events if isinstance(e, JobRestored)}


def test_jobs_come_in_the_order_of_their_creation() -> None:
    late = {"creationTimestamp": "2026-01-01T00:00:09Z"}
    seen = Seen(mljob("c", 5, metadata=late), mljob("b", 30), mljob("a", 40))
    assert list(seen.restored) == ["b", "a", "c"]
    assert [event.job.seq for event in seen.restored.values()] == [1, 2, 3]


def test_a_dependency_that_ended_before_is_told_also_when_it_is_the_younger_object() -> None:
    done = mljob("first", 9, status={"state": "SUCCEEDED"})
    seen = Seen(mljob("waits", 1, spec={"after": ["first"]}), done)
    assert seen.restored["waits"].ended == {"team/first": JobState.SUCCEEDED}
    assert "first" not in seen.restored


def test_a_dependency_on_an_element_that_is_none_waits_for_no_other_job() -> None:
    done = mljob("first", 9, status={"state": "SUCCEEDED"})
    seen = Seen(mljob("waits", 1, spec={"after": ["first[1]"]}), done)
    assert seen.restored["waits"].ended == {}


@pytest.mark.parametrize(
    "status",
    [
        {"state": "RUNNING", "attempt": 1},
        {"state": "RUNNING", "attempt": 1, "placements": [{"node": "a"}]},
        {"state": "PENDING", "placements": [{"node": "a"}]},
        {"state": "PREEMPTED"},
    ],
)
def test_a_record_that_cannot_be_spoils_itself_alone(status: dict[str, Any]) -> None:
    seen = Seen(mljob("odd", 1, status=status), mljob("good", 2))
    assert list(seen.restored) == ["good"]
    assert "team/odd is left alone" in seen.problems[0]
    seen.mljobs.observe(None, mljob("odd", 3))
    assert list(seen.restored) == ["good", "odd"]


def test_an_array_has_ended_when_all_its_elements_have() -> None:
    one = {"index": 0, "state": "SUCCEEDED"}
    part = mljob("sweep", 1, spec={"array": "0-1"}, status={"state": "PENDING", "elements": [one]})
    seen = Seen(part, mljob("waits", 2, spec={"after": ["sweep"]}),
                mljob("picky", 3, spec={"after": ["sweep[0]"]}))  # fmt: skip
    assert seen.restored["waits"].ended == {}
    assert seen.restored["picky"].ended == {"team/sweep.0": JobState.SUCCEEDED}
    assert "sweep[0]" not in seen.restored
    assert seen.restored["sweep[1]"].ended == {"team/sweep": JobState.SUCCEEDED}


def test_a_wish_to_cancel_is_told_once_and_again_with_another_grace() -> None:
    seen = Seen(mljob("a"))
    wished = mljob("a", 2, metadata={"annotations": {"mlsched.io/cancel": "7"}})
    seen.mljobs.observe(None, wished)
    seen.mljobs.observe(wished, wished)
    hurried = mljob("a", 3, metadata={"annotations": {"mlsched.io/cancel": "0"}})
    seen.mljobs.observe(wished, hurried)
    wishes = [e for e in seen.events if isinstance(e, CancelRequested)]
    assert wishes == [CancelRequested("team/a", 7), CancelRequested("team/a", 0)]


def test_wishes_for_elements_are_told_once_each() -> None:
    def wish(version: int, text: str) -> MLJob:
        annotations = {"mlsched.io/cancel-elements": text}
        return mljob("grid", version, spec={"array": "0-4"}, metadata={"annotations": annotations})

    first, second = wish(1, "3:30"), wish(2, "0-1,3:30,x,99")
    seen = Seen(first)
    seen.mljobs.observe(first, second)
    seen.mljobs.observe(second, second)
    wishes = [e for e in seen.events if isinstance(e, CancelRequested)]
    assert wishes == [
        CancelRequested(f"team/grid.{i}", s) for i, s in ((3, 30), (0, None), (1, None))
    ]


def test_a_deleted_object_withdraws_its_job_and_a_new_one_is_another() -> None:
    seen = Seen(mljob("a"))
    seen.mljobs.observe(mljob("a"), None)
    assert seen.events[-1] == JobWithdrawn("team/a")
    seen.mljobs.observe(None, mljob("a", 9, uid="uid-new"))
    assert isinstance(seen.events[-1], JobRestored)
    owner = seen.mljobs.owner_of("team/a")
    assert owner is not None
    assert owner.uid == "uid-new"
    seen.mljobs.observe(mljob("a"), None)
    assert seen.mljobs.owner_of("team/a") is not None


def test_a_spec_that_only_the_schema_lets_through_ends_at_once_but_goes_on_once_begun() -> None:
    async def scenario() -> None:
        several = {"memoryPerNode": "1G", "memoryPerCpu": "1G"}
        seen = Seen(mljob("new", 1, spec=several), mljob("good", 2))
        assert list(seen.restored) == ["good"]
        known = seen.recorder.known["team/new"]
        job = known.jobs["team/new"]
        assert (job.state, job.reason and job.reason.code) == ("FAILED", "Misconfigured")
        begun = mljob("old", 3, spec=several, status={"state": "PENDING", "attempt": 1})
        seen.mljobs.observe(None, begun)
        assert "old" in seen.restored
        await seen.recorder.close()

    asyncio.run(scenario())
