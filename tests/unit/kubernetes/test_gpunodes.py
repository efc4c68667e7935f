"""GPUNodes: how an agent writes them, whatever else is written meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.gpunodes import (
    GPU_NODES,
    GpuNode,
    GpuNodePublisher,
    GpuNodeStatus,
)

PATH = f"{GPU_NODES}/node-a"


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
