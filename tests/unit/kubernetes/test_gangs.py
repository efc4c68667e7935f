"""Pods of others become gangs: by the core API, by labels and annotations, whole or not at all."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest

from mlsched.adapters.kubernetes import gangs
from mlsched.adapters.kubernetes.gangs import (
    COSCHEDULING_COUNT,
    COSCHEDULING_GROUP,
    KUEUE_COUNT,
    KUEUE_GROUP,
    VOLCANO_COUNT,
    VOLCANO_GROUP,
    Gangs,
)
from mlsched.adapters.kubernetes.objects import Pod, PodGroup
from mlsched.adapters.kubernetes.requests import need_of_pod
from mlsched.model.events import JobSubmitted, JobWithdrawn
from mlsched.model.resources import GroupNeed
from mlsched.model.specs import PRIORITY_MAX


class Told:
    """What was refused."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []
        numbers = itertools.count(1)
        self.gangs = Gangs(lambda: next(numbers), self._refuse)

    def _refuse(self, pod: Pod, why: str) -> None:
        self.refused.append((pod.metadata.name, why))

    def submitted(self) -> list[JobSubmitted]:
        return [one for one in self.gangs.flush() if isinstance(one, JobSubmitted)]


def pod(name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    body = {
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}", "labels": labels or {},
                     "annotations": spec.pop("annotations", {})},
        "spec": {
            "schedulerName": "mlsched",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        }
        | spec,
    }  # fmt: skip
    return msgspec.json.decode(json.dumps(body), type=Pod)


def group(name: str, count: int) -> PodGroup:
    body = {
        "metadata": {"name": name, "namespace": "n"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": count}}},
    }
    return msgspec.json.decode(json.dumps(body), type=PodGroup)


def test_a_pod_without_a_group_is_a_job_of_its_own() -> None:
    told = Told()
    told.gangs.observe(None, pod("a"))
    (event,) = told.submitted()
    assert event.job.name == "a"
    assert event.job.needs[0].milli_cpus == 1000


def test_pods_of_other_schedulers_are_left_alone() -> None:
    told = Told()
    told.gangs.observe(None, pod("a", schedulerName="default-scheduler"))
    assert told.gangs.flush() == []


def test_a_core_group_waits_for_the_group_and_for_all_its_pods() -> None:
    told = Told()
    member = {"schedulingGroup": {"podGroupName": "g"}}
    told.gangs.observe(None, pod("a", **member))
    assert told.submitted() == []
    told.gangs.observe_group(None, group("g", 2))
    assert told.submitted() == []
    told.gangs.observe(None, pod("b", **member))
    (event,) = told.submitted()
    assert event.job.spec.nodes == 2


@pytest.mark.parametrize(
    ("name_key", "count_key", "as_labels"),
    [
        (KUEUE_GROUP, KUEUE_COUNT, False),
        (VOLCANO_GROUP, VOLCANO_COUNT, False),
        (COSCHEDULING_GROUP, COSCHEDULING_COUNT, True),
    ],
)
def test_groups_of_other_schedulers_are_read(
    name_key: str, count_key: str, as_labels: bool
) -> None:
    told = Told()
    labels = {name_key: "g"} | ({count_key: "2"} if as_labels else {})
    annotations = {} if as_labels else {count_key: "2"}
    told.gangs.observe(None, pod("a", labels=labels, annotations=annotations))
    assert told.submitted() == []
    told.gangs.observe(None, pod("b", labels=labels, annotations=annotations))
    assert [event.job.spec.nodes for event in told.submitted()] == [2]


def test_a_group_whose_size_nobody_says_waits() -> None:
    told = Told()
    told.gangs.observe(None, pod("a", labels={KUEUE_GROUP: "g"}))
    assert told.submitted() == []


def test_a_gated_pod_waits() -> None:
    told = Told()
    told.gangs.observe(None, pod("a", schedulingGates=[{"name": "wait"}]))
    assert told.submitted() == []
    told.gangs.observe(None, pod("a"))
    assert len(told.submitted()) == 1


def test_a_gang_that_loses_a_pod_is_withdrawn() -> None:
    told = Told()
    labels = {COSCHEDULING_GROUP: "g", COSCHEDULING_COUNT: "2"}
    told.gangs.observe(None, pod("a", labels=labels))
    told.gangs.observe(None, pod("b", labels=labels))
    (event,) = told.submitted()
    told.gangs.observe(pod("b", labels=labels), None)
    assert told.gangs.flush() == [JobWithdrawn(event.job.id)]
    assert told.gangs.begin(event.job.id) == []


def test_members_that_are_bound_count_when_a_gang_is_made_whole() -> None:
    told = Told()
    labels = {COSCHEDULING_GROUP: "g", COSCHEDULING_COUNT: "3"}
    told.gangs.observe(None, pod("a", labels=labels, nodeName="node-a"))
    told.gangs.observe(None, pod("b", labels=labels))
    assert told.submitted() == []
    told.gangs.observe(None, pod("c", labels=labels))
    (event,) = told.submitted()
    assert event.job.spec.nodes == 2


def test_what_cannot_be_placed_is_told_once_and_holds_its_gang() -> None:
    told = Told()
    labels = {COSCHEDULING_GROUP: "g", COSCHEDULING_COUNT: "2"}
    odd = {"containers": [{"name": "c", "resources": {"limits": {"example.com/fpga": "1"}}}]}
    told.gangs.observe(None, pod("a", labels=labels))
    told.gangs.observe(None, pod("b", labels=labels, **odd))
    assert told.submitted() == []
    told.gangs.observe(None, pod("b", labels=labels, **odd))
    assert told.submitted() == []
    assert [name for name, _ in told.refused] == ["b"]


def test_a_gang_that_is_being_bound_counts_as_placed_until_it_is_over() -> None:
    told = Told()
    told.gangs.observe(None, pod("a"))
    (event,) = told.submitted()
    (member,) = told.gangs.begin(event.job.id)
    assert told.gangs.owns(member)
    assert not told.gangs.has_settled(event.job.id)
    told.gangs.observe(None, pod("a", nodeName="node-a"))
    assert told.gangs.has_settled(event.job.id)
    told.gangs.conclude(event.job.id)
    assert not told.gangs.owns(member)
    assert told.gangs.flush() == []


def kueue_pod(name: str, size: int, **more: Any) -> Pod:
    annotations = {KUEUE_COUNT: str(size)}
    return pod(name, labels={KUEUE_GROUP: "g"}, annotations=annotations, **more)


def over(name: str, size: int, phase: str) -> Pod:
    ended = kueue_pod(name, size, nodeName="node-a")
    ended.status.phase = phase
    return ended


def test_the_rest_of_a_gang_is_placed_when_a_member_has_succeeded_meanwhile() -> None:
    told = Told()
    told.gangs.observe(None, over("a", 2, "Succeeded"))
    told.gangs.observe(None, kueue_pod("b", 2))
    [event] = told.submitted()
    assert event.job.spec.nodes == 1


def test_a_member_that_failed_does_not_stand_for_the_one_that_replaces_it() -> None:
    told = Told()
    told.gangs.observe(None, over("a", 2, "Failed"))
    told.gangs.observe(None, kueue_pod("b", 2))
    assert told.submitted() == []


def test_a_gang_that_is_there_in_part_goes_before_all_others() -> None:
    told = Told()
    told.gangs.observe(None, kueue_pod("a", 2, nodeName="node-a"))
    told.gangs.observe(None, kueue_pod("b", 2))
    [event] = told.submitted()
    assert event.job.spec.priority == PRIORITY_MAX


def test_a_gang_that_was_not_bound_keeps_its_job() -> None:
    told = Told()
    for name in ("a", "b"):
        told.gangs.observe(None, kueue_pod(name, 2))
    [event] = told.submitted()
    assert len(told.gangs.begin(event.job.id)) == 2
    told.gangs.relinquish(event.job.id)
    assert told.gangs.flush() == []
    assert len(told.gangs.begin(event.job.id)) == 2


def test_what_is_left_of_a_gang_that_was_bound_in_part_becomes_another_job() -> None:
    told = Told()
    for name in ("a", "b"):
        told.gangs.observe(None, kueue_pod(name, 2))
    [event] = told.submitted()
    told.gangs.begin(event.job.id)
    told.gangs.observe(None, kueue_pod("a", 2, nodeName="node-a"))
    assert told.gangs.has_settled(event.job.id, {"n/b"})
    assert not told.gangs.has_settled(event.job.id)
    told.gangs.relinquish(event.job.id)
    withdrawn, submitted = told.gangs.flush()
    assert withdrawn == JobWithdrawn(event.job.id)
    assert isinstance(submitted, JobSubmitted)
    assert submitted.job.spec.nodes == 1


@pytest.mark.parametrize("count", ["9" * 5000, "-1", "1e3", "", "\u0664\u0665"])
def test_a_count_that_is_none_keeps_its_group_waiting_and_no_other(count: str) -> None:
    told = Told()
    told.gangs.observe(None, pod("a", annotations={VOLCANO_GROUP: "g", VOLCANO_COUNT: count}))
    told.gangs.observe(None, pod("b"))
    assert [event.job.name for event in told.submitted()] == ["b"]


def test_a_pod_that_cannot_be_understood_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def err(one: Pod) -> GroupNeed:
        if one.metadata.name == "a":
            raise KeyError("what nobody thought of")
        return need_of_pod(one)

    monkeypatch.setattr(gangs, "need_of_pod", err)
    told = Told()
    told.gangs.observe(None, pod("a"))
    told.gangs.observe(None, pod("b"))
    assert [event.job.name for event in told.submitted()] == ["b"]
    assert told.refused == [("a", "it cannot be understood: KeyError('what nobody thought of')")]
