"""Pods that no record asks for are deleted, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mlsched.adapters.kubernetes import deletions
from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.orphans import Orphans
from tests.unit.kubernetes.conftest import ended, own_pod, running


class Deleted:
    """Notes what is deleted; the first times it refuses, with these errors."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.uids: list[str] = []

    async def delete(self, path: str, uid: str, grace_s: int | None = None) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        self.uids.append(uid)
        return b""


def look(
    pod: Pod,
    newest: Pod | None = None,
    *,
    owned: bool = False,
    wanted: bool = False,
    api: Deleted | None = None,
    doubts: Sequence[Exception] = (),
    told: list[str] | None = None,
) -> list[str]:
    """What is deleted when a pod is seen; ``doubts`` come before it is known who wants it."""
    server: Any = api or Deleted()
    left = list(doubts)

    async def is_wanted(_: Pod) -> bool:
        if left:
            raise left.pop(0)
        return wanted

    async def run() -> None:
        pods = {pod.metadata.key: newest or pod}
        lines = told if told is not None else []
        orphans = Orphans(server, pods, lambda _: owned, is_wanted, lines.append)
        orphans.observe(pod)
        await orphans._tasks.wait()

    asyncio.run(run())
    return list(server.uids)


def test_a_running_pod_that_nobody_asks_for_is_deleted() -> None:
    assert look(own_pod(status=running())) == ["pod-1-0"]


@pytest.mark.parametrize("why", [{"owned": True}, {"wanted": True}])
def test_a_pod_that_somebody_asks_for_is_left(why: dict[str, bool]) -> None:
    assert look(own_pod(status=running()), **why) == []


def test_a_pod_that_has_ended_is_kept_for_its_logs_before_its_phase_says_so() -> None:
    still = ended(0) | {"phase": "Running"}
    assert look(own_pod(status=still)) == []
    assert look(own_pod(status=running()), newest=own_pod(status=still)) == []


def test_pods_of_others_are_none_of_ours() -> None:
    assert look(own_pod(metadata={"ownerReferences": []}, status=running())) == []


def test_a_pod_that_is_hard_to_judge_or_to_delete_is_deleted_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbidden, told = ApiError(403, "Forbidden", "a policy"), []
    doubts = [ApiError(404, "NotFound", "no such kind now"), ValueError("odd")]
    api = Deleted(forbidden, forbidden)
    monkeypatch.setattr(deletions, "REFUSED_S", 0)
    assert look(own_pod(status=running()), api=api, doubts=doubts, told=told) == ["pod-1-0"]
    assert sum("is still there" in line for line in told) == 4


def test_a_pod_that_is_gone_already_needs_no_second_try() -> None:
    api = Deleted(ApiError(404, "NotFound", "gone"))
    assert look(own_pod(status=running()), api=api) == []
