"""The judge finds what it is there to find: each law has histories that break it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.controlplane.histories import History, read_history
from tests.controlplane.journals import Change
from tests.controlplane.laws import (
    LEAK_S_MAX,
    PARTIAL_S_MAX,
    Expected,
    Sizes,
    broken,
    without_late_pods,
)

NODES = {"a": Sizes(4, 8000), "b": Sizes(4, 8000)}
Json = dict[str, Any]


class Story:
    """Changes one after another, a second apart unless said."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._at_s = 0.0

    def wait(self, seconds: float) -> Story:
        self._at_s += seconds
        return self

    def _add(self, kind: str, name: str, value: Json | None) -> Story:
        self._at_s += 0.1
        revision = len(self.changes) + 1
        self.changes.append(Change(revision, self._at_s, kind, "n", name, value))
        return self

    def job(self, state: str = "", attempt: int = 0, **more: Any) -> Story:
        """The one MLJob with a status; ``spec`` and ``annotations`` as JSON."""
        metadata = {"uid": "u", "name": "j", "annotations": more.pop("annotations", {})}
        value: Json = {"metadata": metadata, "spec": more.pop("spec", {})}
        if state:
            value["status"] = {"state": state, "attempt": attempt, **more}
        return self._add("mljob", "j", value)

    def pod(self, uid: str, attempt: int = 1, group: int = 0, **more: Any) -> Story:
        """A pod of it; ``ended`` is its exit code."""
        labels = {"mlsched.io/attempt": str(attempt), "mlsched.io/group": str(group)}
        metadata: Json = {
            "uid": uid,
            "name": f"j-{attempt}-{group}",
            "labels": labels,
            "ownerReferences": [{"kind": "MLJob", "uid": "u"}],
        }
        if more.get("deleting"):
            metadata["deletionTimestamp"] = "now"
        container = {"resources": {"limits": {"nvidia.com/gpu": str(more.get("gpus", 1))}}}
        status: Json = {"phase": "Running"}
        if "ended" in more:
            code = more["ended"]
            status["phase"] = "Failed" if code else "Succeeded"
            status["containerStatuses"] = [{"state": {"terminated": {"exitCode": code}}}]
        spec = {"nodeName": more.get("node", "a"), "containers": [container]}
        name = str(metadata["name"])
        return self._add("pod", name, {"metadata": metadata, "spec": spec, "status": status})

    def gone(self, kind: str, name: str) -> Story:
        return self._add(kind, name, None)

    @property
    def history(self) -> History:
        return read_history(self.changes)

    def breaches(self, expected: Expected | None = None) -> list[str]:
        return broken(self.history, {"j": expected or Expected()}, NODES)


def good() -> Story:
    story = Story().job().job("STARTING", 1).pod("p").job("RUNNING", 1)
    return story.pod("p", ended=0).job("SUCCEEDED", 1, exitCode=0)


def kinds(lines: Sequence[str]) -> set[str]:
    return {line.partition(":")[0] for line in lines}


def test_a_good_history_breaks_nothing() -> None:
    assert good().breaches() == []


def test_a_second_pod_of_the_same_group_is_a_double_start() -> None:
    story = Story().job().job("STARTING", 1).pod("p").gone("pod", "j-1-0").pod("q")
    story.pod("q", ended=0).job("SUCCEEDED", 1)
    assert "double start" in kinds(story.breaches())


def test_two_attempts_at_once_are_found() -> None:
    story = Story().job().job("STARTING", 1).pod("p").job("PENDING", 1).job("STARTING", 2)
    story.pod("q", 2).pod("p", ended=1).pod("q", 2, ended=0).job("SUCCEEDED", 2)
    assert kinds(story.breaches()) == {"two attempts at once"}


def test_a_pod_before_its_record_is_found() -> None:
    story = Story().job().pod("p").job("STARTING", 1).pod("p", ended=0).job("SUCCEEDED", 1)
    assert kinds(story.breaches()) == {"start without a record"}


def test_steps_that_no_table_has_are_found() -> None:
    assert kinds(good().job("RUNNING", 1).job("SUCCEEDED", 1).breaches()) == {"illegal step"}
    story = Story().job().job("STARTING", 2).job("CANCELLED", 1)
    assert kinds(story.breaches(Expected(("CANCELLED",)))) == {"illegal step"}


def test_a_write_of_an_older_epoch_is_found() -> None:
    story = Story().job().job("STARTING", 1, epoch=3).pod("p").pod("p", ended=0)
    story.job("SUCCEEDED", 1, epoch=2)
    assert kinds(story.breaches()) == {"an older controller wrote"}


def test_a_job_that_never_ends_or_ends_otherwise_is_found() -> None:
    assert kinds(Story().job().breaches()) == {"lost"}
    assert kinds(good().breaches(Expected(("CANCELLED",)))) == {"wrong end"}
    assert kinds(good().breaches(Expected(retries=1))) == {"wrong end"}


def test_a_state_that_its_pods_do_not_bear_out_is_found() -> None:
    story = Story().job().job("STARTING", 1).pod("p").pod("p", ended=3)
    assert kinds(story.job("SUCCEEDED", 1).breaches()) == {"disagreement"}
    story = Story().job().job("STARTING", 1).pod("p").pod("p", ended=0)
    found = story.job("FAILED", 1, exitCode=5).breaches(Expected(("FAILED",)))
    assert kinds(found) == {"disagreement"}


def test_a_pod_that_outlives_its_job_is_found() -> None:
    story = Story().job().job("STARTING", 1).pod("p").gone("mljob", "j")
    assert kinds(story.breaches()) == {"leak"}
    assert kinds(story.wait(LEAK_S_MAX + 1).pod("p", ended=143).breaches()) == {"leak"}


def test_a_gang_that_is_there_in_part_for_long_is_found() -> None:
    wide = {"nodes": 2}
    story = Story().job(spec=wide).job("STARTING", 1, spec=wide).pod("p")
    story.wait(PARTIAL_S_MAX + 1).pod("q", 1, 1).pod("p", ended=0).pod("q", 1, 1, ended=0)
    assert kinds(story.job("SUCCEEDED", 1, spec=wide).breaches()) == {"partial gang"}


def test_a_node_with_more_than_it_has_is_found() -> None:
    story = Story().job().job("STARTING", 1).pod("p", gpus=5).pod("p", gpus=5, ended=0)
    assert kinds(story.job("SUCCEEDED", 1).breaches()) == {"overfull"}


def test_elements_that_were_placed_in_another_order_are_found() -> None:
    def placed(*indices: int) -> Story:
        elements = [{"index": i, "state": "STARTING", "attempt": 1} for i in indices]
        return Story().job("STARTING", spec={"array": "0-1"}, elements=elements)

    def then_both(story: Story) -> list[str]:
        elements = [{"index": i, "state": "STARTING", "attempt": 1} for i in (0, 1)]
        story.job("STARTING", spec={"array": "0-1"}, elements=elements)
        return [line for line in story.breaches() if "order" in line]

    assert then_both(placed(0)) == []
    assert then_both(placed(1)) == ["out of order: j[1] was placed before j[0]"]


def test_only_a_late_pod_that_is_deleted_at_once_is_forgiven() -> None:
    late = good().pod("late", deleting=False).pod("late", deleting=True).gone("pod", "j-1-0")
    assert set(late.history.pods) == {"p", "late"}
    assert set(without_late_pods(late.history).pods) == {"p"}
    slow = good().pod("late").wait(10).pod("late", deleting=True)
    assert set(without_late_pods(slow.history).pods) == {"p", "late"}
