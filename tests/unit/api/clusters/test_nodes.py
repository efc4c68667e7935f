"""Rows of GPUs: those of device plugins, and those that DRA drivers publish."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec.structs import replace

from mlsched.adapters.kubernetes.gpunodes import ToldNode
from mlsched.adapters.kubernetes.objects import Metadata
from mlsched.adapters.kubernetes.slices import ResourceClaim
from mlsched.api.clusters.nodes import cluster_view, gpu_rows
from mlsched.api.clusters.pictures import Lists, Picture
from mlsched.model.inventory import GpuEvent
from tests.unit.inventories import inventory, told
from tests.unit.kubernetes.conftest import node
from tests.unit.kubernetes.test_slices import published


def rows(lists: Lists) -> list[dict[str, Any]]:
    return [dict(one) for one in gpu_rows(lists, Picture(lists))]


def broken(gpus: int) -> ToldNode:
    """An agent that finds one of so many GPUs broken."""
    now_ms = time.time_ns() // 1_000_000
    read = replace(inventory(gpus), events=(GpuEvent(now_ms, "GPU-1", "xid", 79),))
    return told(read, now_ms)


def test_a_slot_that_nobody_gets_is_not_free() -> None:
    lists = Lists(nodes=[node()])
    assert [(one["total"], one["free"]) for one in rows(lists)] == [(8, 8)]
    lists.gpu_nodes = [broken(8)]
    assert [(one["total"], one["free"]) for one in rows(lists)] == [(8, 7)]


def test_published_devices_have_a_row_of_their_driver() -> None:
    metadata = Metadata("held", "team")
    result = {"driver": "gpu.nvidia.com", "pool": "node-a", "device": "gpu-0"}
    status = {"allocation": {"devices": {"results": [result]}}}
    claim = msgspec.convert({"metadata": metadata, "status": status}, ResourceClaim)
    plain = {"allocatable": {"cpu": "8"}, "capacity": {"cpu": "8"}}
    lists = Lists(
        nodes=[node(status=plain)],
        gpu_nodes=[broken(4)],
        slices=[published(0, 1, 2, 3)],
        claims=[claim],
    )
    (row,) = rows(lists)
    assert (row["resource"], row["layer"]) == ("gpu.nvidia.com", "gpu")
    assert (row["capacity"], row["total"], row["free"]) == (4, 3, 2)
    assert row["holders"] == [{"name": "claim team/held", "gpus": 1}]
    devices = cluster_view(Picture(lists), "prod")["devices"]
    assert [one["healthy"] for one in devices] == [False, True, True]
