"""GPUNodes: what the controller believes of them, and how they are written."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.gpunodes import (
    GPU_NODES,
    STALE_S,
    GpuNode,
    GpuNodePublisher,
    GpuNodeStatus,
    judge,
)
from mlsched.adapters.kubernetes.objects import Metadata
from mlsched.agent.reports import build_status
from mlsched.model.inventory import GpuEvent, Inventory
from tests.unit.inventories import NOW_MS, inventory

PATH = f"{GPU_NODES}/node-a"


def gpu_node(read: Inventory, at_ms: int = NOW_MS) -> GpuNode:
    return GpuNode(Metadata("node-a"), build_status(read, {}, "boot", at_ms))


def test_devices_are_judged_at_the_moment_of_asking() -> None:
    told = replace(inventory(2), events=(GpuEvent(NOW_MS, "GPU-1", "xid", 79),))
    devices, note = judge(gpu_node(told), NOW_MS)
    assert [one.healthy for one in devices] == [True, False]
    assert note == ""
    day_ms = 86_400_000
    devices, _ = judge(gpu_node(told, NOW_MS + day_ms), NOW_MS + day_ms)
    assert [one.healthy for one in devices] == [True, True]


@pytest.mark.parametrize(("age_s", "count"), [(0, 1), (STALE_S, 1), (STALE_S + 1, 0)])
def test_an_agent_that_is_silent_is_not_believed(age_s: int, count: int) -> None:
    devices, note = judge(gpu_node(inventory(1)), NOW_MS + 1000 * age_s)
    assert len(devices) == count
    assert ("15 minutes ago" in note) == (count == 0)


def test_an_agent_without_a_driver_says_so_and_keeps_nothing_back() -> None:
    empty = replace(inventory(0), note="no driver")
    assert judge(gpu_node(empty), NOW_MS) == ((), "its node agent finds no GPU: no driver")
    assert judge(GpuNode(Metadata("node-a")), NOW_MS) == ((), "")


class Server:
    """Nodes and GPUNodes of one cluster; ``conflicts`` writes come too late."""

    def __init__(self, *paths: str) -> None:
        self.objects: dict[str, dict[str, Any]] = {path: _object("0") for path in paths}
        self.conflicts = 0
        self.verbs: list[str] = []

    async def get(self, path: str) -> bytes:
        self.verbs.append("GET")
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"no {path}")
        return json.dumps(self.objects[path]).encode()

    async def create(self, path: str, body: bytes) -> bytes:
        self.verbs.append("POST")
        one = json.loads(body)
        one["metadata"]["resourceVersion"] = "1"
        self.objects[f"{path}/{one['metadata']['name']}"] = one
        return json.dumps(one).encode()

    async def replace(self, path: str, body: bytes) -> bytes:
        self.verbs.append("PUT")
        path, new = path.removesuffix("/status"), json.loads(body)
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"no {path}")
        metadata = self.objects[path]["metadata"]
        if self.conflicts:
            self.conflicts -= 1
            metadata["resourceVersion"] += "0"
        if metadata["resourceVersion"] != new["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody was faster")
        metadata["resourceVersion"] += "1"
        self.objects[path]["status"] = new["status"]
        return json.dumps(self.objects[path]).encode()


def _object(version: str) -> dict[str, Any]:
    return {"metadata": {"name": "node-a", "uid": "u", "resourceVersion": version}}


def publish(server: Server, times: int = 1) -> None:
    async def act() -> None:
        api: Any = server
        publisher = GpuNodePublisher(api, "node-a")
        for _ in range(times):
            await publisher.publish(GpuNodeStatus(published_at="now"))

    asyncio.run(act())


def test_the_object_is_made_once_and_owned_by_its_node() -> None:
    server = Server("/api/v1/nodes/node-a")
    publish(server, 2)
    assert server.verbs == ["GET", "GET", "POST", "PUT", "PUT"]
    made = server.objects[PATH]
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert made["status"]["publishedAt"] == "now"


def test_a_write_that_comes_too_late_is_done_over_what_is_there_now() -> None:
    server = Server("/api/v1/nodes/node-a", PATH)
    server.conflicts = 2
    publish(server)
    assert server.objects[PATH]["status"]["publishedAt"] == "now"


def test_an_object_that_was_deleted_is_made_again() -> None:
    server = Server("/api/v1/nodes/node-a")

    async def act() -> None:
        api: Any = server
        publisher = GpuNodePublisher(api, "node-a")
        await publisher.publish(GpuNodeStatus())
        del server.objects[PATH]
        await publisher.publish(GpuNodeStatus())

    asyncio.run(act())
    assert PATH in server.objects


def test_without_its_node_nothing_is_published() -> None:
    with pytest.raises(ApiError, match="no /api/v1/nodes/node-a"):
        publish(Server())


def test_an_object_of_a_newer_version_is_written_over_and_not_read() -> None:
    server = Server(PATH)
    server.objects[PATH]["status"] = {"inventory": {"unknown": 1}}

    async def read() -> GpuNode | None:
        api: Any = server
        return await GpuNodePublisher(api, "node-a").read()

    assert asyncio.run(read()) is None
    publish(server)
    assert server.objects[PATH]["status"]["publishedAt"] == "now"
