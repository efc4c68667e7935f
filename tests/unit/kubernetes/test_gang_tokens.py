"""The token of a gang on Kubernetes: one Secret an attempt, before its pods, gone with it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec

from mlsched.adapters.kubernetes.actuators import PodActuator
from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.pods import service_name
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.model.events import AttemptEnded, Event
from mlsched.model.jobs import Job
from tests.unit.kubernetes.conftest import OWNER, own_pod, placed_job, running


class Server:
    """Keeps what is created, and refuses to let anybody read a secret."""

    def __init__(self, *existing: str) -> None:
        self.objects: dict[str, dict[str, Any]] = {path: {} for path in existing}
        self.order: list[str] = []

    async def create(self, path: str, body: bytes) -> bytes:
        found: dict[str, Any] = json.loads(body)
        kind, name = path.rpartition("/")[2], found["metadata"]["name"]
        if f"{path}/{name}" in self.objects:
            raise ApiError(409, "AlreadyExists", "it exists")
        found["metadata"] |= {"uid": f"uid-{len(self.objects)}", "resourceVersion": "9"}
        self.objects[f"{path}/{name}"] = found
        self.order.append(kind)
        return json.dumps(found).encode()

    async def delete(self, path: str, uid: str, grace_s: int | None = None) -> bytes:
        if path not in self.objects:
            raise ApiError(404, "NotFound", "there is none")
        del self.objects[path]
        return b""

    async def get(self, path: str) -> bytes:
        raise ApiError(403, "Forbidden", f"may not read {path}")


def secret_path(job: Job) -> str:
    return f"/api/v1/namespaces/{OWNER.namespace}/secrets/{service_name(job, OWNER)}"


def start(server: Server, job: Job, *pods: Pod, stops: bool = False) -> list[Event]:
    """What a controller tells that starts an attempt, or finds what an earlier one began."""
    events: list[Event] = []

    async def scenario() -> None:
        api: Any = server
        reflector: Reflector[Pod] = Reflector(api, "/api/v1/pods", Pod)
        for pod in pods:
            reflector.put(msgspec.json.encode(pod))
        actuator = PodActuator(api, reflector, lambda _: OWNER, events.append)
        actuator.track(job)
        for pod in pods:
            actuator.observe(None, pod)
        await actuator.adopt(job)
        if stops:
            for pod in list(reflector.objects.values()):
                actuator.observe(pod, None)
            await actuator._tasks.wait()
        await actuator.close()

    asyncio.run(scenario())
    return events


def test_the_secret_is_there_before_the_first_pod() -> None:
    server, job = Server(), placed_job(2, gang_token=True)
    start(server, job)
    assert server.order == ["secrets", "services", "pods", "pods"]
    token = base64.b64decode(server.objects[secret_path(job)]["data"]["token"])
    assert len(bytes.fromhex(token.decode())) == 32
    others = [one for path, one in server.objects.items() if path != secret_path(job)]
    assert token.decode() not in json.dumps(others)


def test_a_job_that_asks_for_no_token_has_no_secret() -> None:
    server = Server()
    start(server, placed_job(2))
    assert "secrets" not in server.order


def test_a_secret_of_an_earlier_try_stays_as_it_is_and_is_not_read() -> None:
    job = placed_job(2, gang_token=True)
    server = Server(secret_path(job))
    assert start(server, job) == []
    assert server.order == ["services", "pods", "pods"]
    assert server.objects[secret_path(job)] == {}


def test_where_a_pod_was_seen_no_second_token_is_made() -> None:
    job, server = placed_job(2, gang_token=True), Server()
    start(server, job, own_pod(1, status=running(1)))
    assert server.order == ["services", "pods"]


def test_the_secret_goes_with_the_attempt() -> None:
    job, server = placed_job(2, gang_token=True), Server()
    events = start(server, job, stops=True)
    assert [type(one) for one in events] == [AttemptEnded]
    assert secret_path(job) not in server.objects
