"""Which nodes are looked at again, and what is known of their GPUs."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec

from mlsched.adapters.kubernetes.slices import ResourceClaim, ResourceSlice
from mlsched.model.inventory import GpuEvent
from mlsched.server.hardware import Hardware
from tests.unit.inventories import inventory, told

DEVICE = "gpu.nvidia.com/node-a/gpu-0"


def resource_slice(version: int = 1, devices: int = 2) -> ResourceSlice:
    attributes = [{"uuid": {"string": f"GPU-{n}"}} for n in range(devices)]
    spec = {
        "driver": "gpu.nvidia.com",
        "nodeName": "node-a",
        "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": f"gpu-{n}", "attributes": one} for n, one in enumerate(attributes)],
    }
    body = {"metadata": {"name": "slice", "resourceVersion": str(version)}, "spec": spec}
    return msgspec.json.decode(json.dumps(body), type=ResourceSlice)


def claim(version: int, *devices: str) -> ResourceClaim:
    results = [dict(zip(("driver", "pool", "device"), d.split("/"), strict=True)) for d in devices]
    metadata = {"name": "c", "namespace": "team", "resourceVersion": str(version), "uid": "c"}
    body = {"metadata": metadata, "status": {"allocation": {"devices": {"results": results}}}}
    return msgspec.json.decode(json.dumps(body), type=ResourceClaim)


def scene(act: Any) -> list[str]:
    """Act on the hardware; the nodes that were touched, in order."""
    touched: list[str] = []

    async def run() -> None:
        api: Any = None
        hardware = Hardware(api, touched.append)
        act(hardware)
        hardware.close()

    asyncio.run(run())
    return touched


def put(reflector: Any, one: Any) -> None:
    reflector.put(msgspec.json.encode(one))


def test_claims_touch_the_node_whose_devices_they_take_and_free() -> None:
    def act(hardware: Hardware) -> None:
        put(hardware.slices, resource_slice())
        put(hardware.claims, claim(2, DEVICE))
        assert hardware.of("node-a").taken == {DEVICE}
        put(hardware.claims, claim(3, DEVICE))
        put(hardware.claims, claim(4))
        assert hardware.of("node-a").taken == frozenset()
        put(hardware.claims, claim(5, "nic.example.com/node-b/nic-0"))

    assert scene(act) == ["node-a", "node-a", "node-a"]


def test_slices_that_vanish_leave_no_devices() -> None:
    def act(hardware: Hardware) -> None:
        put(hardware.slices, resource_slice())
        assert len(hardware.of("node-a").published or ()) == 2
        put(hardware.slices, resource_slice(2, devices=1))
        assert len(hardware.of("node-a").published or ()) == 1
        hardware.slices.note_gone("slice", "", 3)
        assert hardware.of("node-a").published is None

    assert scene(act) == ["node-a"] * 3


def test_the_agent_s_word_reaches_published_devices_by_their_uuid() -> None:
    now_ms = time.time_ns() // 1_000_000
    xid = GpuEvent(now_ms, "GPU-1", "xid", 79)
    node = told(inventory(2, events=(xid,)), now_ms)

    def act(hardware: Hardware) -> None:
        put(hardware.slices, resource_slice())
        put(hardware.gpu_nodes, node)
        found = hardware.of("node-a")
        assert [one.healthy for one in found.published or ()] == [True, False]
        assert "79" in (found.published or ())[1].health_reason

    assert scene(act) == ["node-a", "node-a"]


def test_nothing_is_known_of_a_node_that_tells_nothing() -> None:
    def act(hardware: Hardware) -> None:
        found = hardware.of("node-z")
        assert (found.known, found.note, found.published) == ((), "", None)

    assert scene(act) == []
