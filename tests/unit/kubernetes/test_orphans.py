"""Pods that no record asks for are deleted, and no others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlsched.adapters.kubernetes import orphans as orphans_module
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


def look(pod: Pod, newest: Pod | None = None, *, owned: bool = False, wanted: bool = False) -> Any:
    """What is deleted when a pod is seen."""
    api = Deleted()

    async def is_wanted(_: Pod) -> bool:
        return wanted

    async def run() -> None:
        pods = {pod.metadata.key: newest or pod}
        orphans = Orphans(api, pods, lambda _: owned, is_wanted)  # type: ignore[arg-type]
        orphans.observe(pod)
        await orphans._tasks.wait()

    asyncio.run(run())
    return api.uids


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
    forbidden = ApiError(403, "Forbidden", "a policy")
    api, told, pod = Deleted(forbidden, forbidden), [], own_pod(status=running())
    doubts: list[Exception] = [ApiError(404, "NotFound", "no such kind now"), ValueError("odd")]

    async def is_wanted(_: Pod) -> bool:
        if doubts:
            raise doubts.pop(0)
        return False

    async def run() -> None:
        pods = {pod.metadata.key: pod}
        orphans = Orphans(api, pods, lambda _: False, is_wanted, told.append)  # type: ignore[arg-type]
        orphans.observe(pod)
        await orphans._tasks.wait()

    monkeypatch.setattr(orphans_module, "REFUSED_S", 0)
    asyncio.run(run())
    assert api.uids == ["pod-1-0"]
    assert sum("is still there" in line for line in told) == 4


def test_a_pod_that_is_gone_already_needs_no_second_try() -> None:
    api, pod = Deleted(ApiError(404, "NotFound", "gone")), own_pod(status=running())

    async def is_wanted(_: Pod) -> bool:
        return False

    async def run() -> None:
        orphans = Orphans(api, {pod.metadata.key: pod}, lambda _: False, is_wanted)  # type: ignore[arg-type]
        orphans.observe(pod)
        await orphans._tasks.wait()

    asyncio.run(run())
    assert api.uids == []
