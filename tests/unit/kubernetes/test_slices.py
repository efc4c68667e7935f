"""What DRA drivers publish, as devices of a node."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mlsched.adapters.kubernetes.slices import (
    DRIVERS,
    Published,
    ResourceClaim,
    ResourceSlice,
    device_name,
    is_published,
    judge_devices,
    read_devices,
    split_name,
)


def published(*numbers: int, pool: dict[str, Any] | None = None, **spec: Any) -> ResourceSlice:
    """A slice of node-a with devices gpu-N, of UUID GPU-N."""
    devices = [
        {
            "name": f"gpu-{n}",
            "attributes": {
                "type": {"string": "gpu"},
                "uuid": {"string": f"GPU-{n}"},
                "productName": {"string": "NVIDIA H100 80GB HBM3"},
                "index": {"int": n},
            },
            "capacity": {"memory": {"value": "80Gi"}},
        }
        for n in numbers
    ]
    whole = {
        "driver": "gpu.nvidia.com",
        "nodeName": "node-a",
        "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 1} | (pool or {}),
        "devices": devices,
    } | spec
    body = {"metadata": {"name": f"s{numbers}", "resourceVersion": "1"}, "spec": whole}
    return msgspec.json.decode(json.dumps(body), type=ResourceSlice)


def names(*slices: ResourceSlice) -> list[str]:
    return [one.device.uuid.rpartition("/")[2] for one in read_devices(slices, DRIVERS)]


def test_a_device_has_the_name_that_an_allocation_needs() -> None:
    (one,) = read_devices([published(3)], DRIVERS)
    assert one.device.uuid == "gpu.nvidia.com/node-a/gpu-3"
    assert one.uuid == "GPU-3"
    assert (one.device.model, one.device.memory_bytes) == ("NVIDIA H100 80GB HBM3", 80 << 30)
    assert one.device.healthy


def test_devices_are_in_the_order_of_their_numbers() -> None:
    assert names(published(10, 9, 0)) == ["gpu-0", "gpu-9", "gpu-10"]


def test_drivers_of_other_devices_are_passed_over() -> None:
    assert names(published(0, driver="nic.example.com")) == []


def test_only_the_newest_generation_of_a_pool_counts_and_only_when_it_is_whole() -> None:
    old, new = published(0, 1), published(2, pool={"generation": 2})
    assert names(old, new) == ["gpu-2"]
    half = published(0, pool={"resourceSliceCount": 2})
    other = published(1, pool={"resourceSliceCount": 2})
    assert names(half) == []
    assert names(half, other) == ["gpu-0", "gpu-1"]


def test_instances_of_a_partitioned_gpu_have_their_profile() -> None:
    attributes = {
        "type": {"string": "mig"},
        "gpu.nvidia.com/profile": {"string": "1g.10gb"},
        "parentUUID": {"string": "GPU-7"},
    }
    one = {"name": "gpu-7-mig-0", "attributes": attributes}
    (found,) = read_devices([published(devices=[one])], DRIVERS)
    assert (found.device.profile, found.device.parent_uuid) == ("1g.10gb", "GPU-7")
    assert found.device.is_mig


@pytest.mark.parametrize(
    "more",
    [
        {"attributes": {"type": {"string": "vfio"}}},
        {"consumesCounters": [{"counterSet": "gpu-7-counters", "counters": {}}]},
    ],
)
def test_devices_that_are_another_ones_silicon_are_left_out(more: dict[str, Any]) -> None:
    """One GPU under two names would be given twice: the API server does not look."""
    one = {"name": "gpu-7-more", **more}
    assert read_devices([published(devices=[{"name": "gpu-7"}, one])], DRIVERS) == read_devices(
        [published(devices=[{"name": "gpu-7"}])], DRIVERS
    )


def test_a_device_with_a_taint_takes_no_jobs() -> None:
    taint = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute"}
    one = {"name": "gpu-0", "taints": [taint]}
    (found,) = read_devices([published(devices=[one])], DRIVERS)
    assert not found.device.healthy
    assert "gpu.nvidia.com/xid=79" in found.device.health_reason


def test_health_comes_from_the_agent_by_the_uuid() -> None:
    devices = read_devices([published(0, 1)], DRIVERS)
    sick = replace(devices[0].device, uuid="GPU-1", healthy=False, health_reason="lost")
    judged = judge_devices(devices, {"GPU-1": sick})
    assert [(one.healthy, one.health_reason) for one in judged] == [(True, ""), (False, "lost")]


def test_a_gpu_that_tells_no_uuid_is_one_that_the_agent_does_not_know() -> None:
    devices = read_devices([published(0, 1)], DRIVERS)
    well = replace(devices[0].device, uuid="GPU-0")
    lost = replace(well, uuid="GPU 1", healthy=False, health_reason="it does not tell its UUID")
    judged = judge_devices(devices, {one.uuid: one for one in (well, lost)})
    assert [one.healthy for one in judged] == [True, False]
    nameless = [Published(one.device, "") for one in devices]
    assert all(one.healthy for one in judge_devices(nameless, {"GPU 1": lost}))


@given(
    st.from_regex(r"[a-z]+\.[a-z]+", fullmatch=True),
    st.from_regex(r"[a-z0-9]+(/[a-z0-9]+){0,2}", fullmatch=True),
    st.from_regex(r"[a-z0-9-]+", fullmatch=True),
)
def test_a_name_says_what_it_was_made_of(driver: str, pool: str, device: str) -> None:
    name = device_name(driver, pool, device)
    assert split_name(name) == (driver, pool, device)
    assert is_published(name)


@pytest.mark.parametrize("slot", ["node-a/gpu-3", "node-a/mig-1g.10gb-0"])
def test_slots_are_not_taken_for_published_devices(slot: str) -> None:
    assert not is_published(slot)


def test_a_claim_of_those_who_only_look_holds_nothing() -> None:
    results = [
        {"request": "a", "driver": "d", "pool": "p", "device": "x"},
        {"request": "b", "driver": "d", "pool": "p", "device": "y", "adminAccess": True},
    ]
    body = {"metadata": {}, "status": {"allocation": {"devices": {"results": results}}}}
    assert msgspec.json.decode(json.dumps(body), type=ResourceClaim).devices == ["d/p/x"]
