"""What a new controller makes of the pods that an earlier one has left."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from mlsched.adapters.kubernetes import deletions
from mlsched.adapters.kubernetes.actuators import PodActuator
from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.model.events import AttemptEnded, Event
from mlsched.model.jobs import EndCause, JobState
from tests.unit.kubernetes.conftest import OWNER, ended, own_pod, placed_job, running


class Server:
    """Stores what is created, and notes what is deleted."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.deleted: list[str] = []

    async def create(self, path: str, body: bytes) -> bytes:
        found: dict[str, Any] = json.loads(body)
        self.created.append(found["metadata"]["name"])
        found["metadata"] |= {"uid": f"new-{len(self.created)}", "resourceVersion": "9"}
        return json.dumps(found).encode()

    async def delete(self, path: str, uid: str, grace_s: int | None = None) -> bytes:
        self.deleted.append(uid)
        return b""


class Takeover:
    """A gang of two that an earlier controller began, and what a new one does on these pods."""

    def __init__(self, *pods: Pod, state: JobState = JobState.STARTING) -> None:
        self.server = Server()
        self.events: list[Event] = []
        asyncio.run(self._run(pods, state))

    async def _run(self, pods: tuple[Pod, ...], state: JobState) -> None:
        api: Any = self.server
        reflector: Reflector[Pod] = Reflector(api, "/api/v1/pods", Pod)
        for pod in pods:
            reflector.put(msgspec.json.encode(pod))
        actuator = PodActuator(api, reflector, lambda _: OWNER, self.events.append)
        reflector.handle = actuator.observe
        job = placed_job(2, state)
        actuator.track(job)
        for pod in pods:
            actuator.observe(None, pod)
        await actuator.adopt(job)
        await actuator.close()

    @property
    def causes(self) -> list[EndCause]:
        return [one.outcome.cause for one in self.events if isinstance(one, AttemptEnded)]

    @property
    def pods(self) -> list[str]:
        """Names of pods that were created: those of an attempt, not its service."""
        return sorted(name for name in self.server.created if name.startswith("train-1-"))


def test_what_an_earlier_controller_did_not_get_to_is_created() -> None:
    assert Takeover().pods == ["train-1-0", "train-1-1"]
    assert Takeover(own_pod(1, status=running(1))).pods == ["train-1-0"]


def test_a_pod_that_was_deleted_after_another_had_failed_does_not_start_again() -> None:
    left = Takeover(own_pod(1, status=ended(9, 1)))
    assert left.pods == []
    assert left.causes == [EndCause.EXITED]


def test_a_pod_does_not_start_again_while_the_others_are_being_deleted() -> None:
    going = {"deletionTimestamp": "2026-01-01T00:00:04Z"}
    left = Takeover(own_pod(1, metadata=going, status=running(1)))
    assert left.pods == []


@pytest.mark.parametrize("group", [0, 1])
def test_a_running_job_whose_pod_is_gone_has_lost_it(group: int) -> None:
    left = Takeover(own_pod(group, status=running(group)), state=JobState.RUNNING)
    assert left.pods == []


FORBIDDEN = ApiError(403, "Forbidden", 'pods is forbidden: User "x" cannot create resource "pods"')
QUOTA = ApiError(403, "Forbidden", 'pods "a" is forbidden: exceeded quota: q')
POLICY = ApiError(403, "Forbidden", 'pods "a" is forbidden: violates PodSecurity "restricted"')


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (FORBIDDEN, EndCause.REVOKED),
        (QUOTA, EndCause.REVOKED),
        (POLICY, EndCause.CANNOT_START),
        (ApiError(422, "Invalid", "bad"), EndCause.CANNOT_START),
    ],
)
def test_what_the_job_cannot_help_puts_it_off_and_what_it_asks_for_in_vain_ends_it(
    error: ApiError, cause: EndCause, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: Server, path: str, body: bytes) -> bytes:
        raise error

    monkeypatch.setattr(Server, "create", refuse)
    assert Takeover().causes == [cause]


def test_a_delete_that_was_refused_is_tried_again_while_the_pod_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> list[str]:
        told: list[str] = []
        refusals = [FORBIDDEN, FORBIDDEN]

        class Strict(Server):
            async def delete(self, path: str, uid: str, grace_s: int | None = None) -> bytes:
                if refusals:
                    raise refusals.pop()
                return await super().delete(path, uid, grace_s)

        api: Any = Strict()
        pod = own_pod(status=running())
        reflector: Reflector[Pod] = Reflector(api, "/api/v1/pods", Pod)
        reflector.put(msgspec.json.encode(pod))
        actuator = PodActuator(
            api, reflector, lambda _: OWNER, lambda _: None, on_problem=told.append
        )
        actuator.track(placed_job())
        await actuator.stop("team/train", 1, 0)
        await actuator._tasks.wait()
        await actuator.close()
        assert len(told) == 2
        return list(api.deleted)

    monkeypatch.setattr(deletions, "REFUSED_S", 0)
    assert asyncio.run(scenario()) == [own_pod().metadata.uid]
