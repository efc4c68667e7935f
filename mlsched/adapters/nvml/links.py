"""How a GPU is connected: NVLink ports, peers, PCIe, and the NVLink fabric."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from mlsched.adapters.nvml.doors import Door, NotReportedError, derive, number
from mlsched.adapters.nvml.structs import raw_bytes, raw_text
from mlsched.model.inventory import Fabric, Links, NvLink, Peer, Reading, ReadingStatus

NVLINKS_MAX = 36
_INVALID_ARGUMENT = 2

P2P_READ, P2P_WRITE, P2P_NVLINK = 0, 1, 2
"""Plain numbers: the binding's constant for reads is a tuple by mistake, which ctypes refuses."""

_P2P_STATES = {
    0: "ok",
    1: "chipset not supported",
    2: "GPU not supported",
    3: "topology not supported",
    4: "disabled by a registry key",
    5: "not supported",
}
_ANCESTORS = {
    0: "internal",
    10: "single",
    20: "multiple",
    30: "hostbridge",
    40: "node",
    50: "system",
}
_REMOTE_KINDS = {0: "gpu", 1: "npu", 2: "switch"}
_FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}
_FABRIC_HEALTH = {0: "not supported", 1: "healthy", 2: "unhealthy", 3: "limited"}


def read_links(door: Door, handle: Any, nvlink_count: Reading[int]) -> Links:
    """PCIe and NVLink of a GPU; peers are read when all GPUs are known."""
    return Links(
        nvlinks=read_nvlinks(door, handle, nvlink_count),
        nvlink_count=nvlink_count,
        peers=(),
        pcie_generation=door.call("nvmlDeviceGetCurrPcieLinkGeneration", handle, then=number),
        pcie_generation_max=door.call("nvmlDeviceGetMaxPcieLinkGeneration", handle, then=number),
        pcie_width=door.call("nvmlDeviceGetCurrPcieLinkWidth", handle, then=number),
        pcie_width_max=door.call("nvmlDeviceGetMaxPcieLinkWidth", handle, then=number),
        pcie_replays=door.call("nvmlDeviceGetPcieReplayCounter", handle, then=number),
    )


def read_nvlinks(door: Door, handle: Any, count: Reading[int]) -> tuple[NvLink, ...]:
    """The ports that the product has. A port that it lacks is not supported, not an error."""
    most = min(count.value, NVLINKS_MAX) if count.value is not None else NVLINKS_MAX
    found = []
    for link in range(most):
        is_active = door.call("nvmlDeviceGetNvLinkState", handle, link, then=_is_one)
        if is_active.code == _INVALID_ARGUMENT:
            break
        if is_active.status is ReadingStatus.UNSUPPORTED:
            continue
        if not is_active.is_ok:
            unread: Reading[Any] = derive(is_active, lambda _: None)
            found.append(NvLink(link, is_active, unread, unread))
            break
        kind: Reading[Any] = _inactive(is_active)
        bus_id: Reading[Any] = kind
        if is_active.value:
            kind = door.call(
                "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link, then=_name_of(_REMOTE_KINDS)
            )
            bus_id = door.call(
                "nvmlDeviceGetNvLinkRemotePciInfo",
                handle,
                link,
                then=lambda info: raw_text(info, "busId"),
            )
        found.append(NvLink(link, is_active, kind, bus_id))
    return tuple(found)


def _is_one(value: Any) -> bool:
    return number(value) == 1


def _inactive(reading: Reading[bool]) -> Reading[Any]:
    return Reading(None, ReadingStatus.UNSUPPORTED, reading.at_ms, detail="the link is not active")


def _name_of(names: dict[int, str]) -> Any:
    return lambda code: names.get(int(code), "unknown")


def read_peers(door: Door, handle: Any, others: Sequence[tuple[str, Any]]) -> tuple[Peer, ...]:
    """Paths from a GPU to others.

    Args:
        door: To the GPU.
        handle: Of it.
        others: UUID and handle of each of the others.
    """

    def status(other: Any, kind: int) -> Reading[str]:
        then = _name_of(_P2P_STATES)
        return door.call("nvmlDeviceGetP2PStatus", handle, other, kind, then=then)

    return tuple(
        Peer(
            uuid=key,
            ancestor=door.call(
                "nvmlDeviceGetTopologyCommonAncestor", handle, other, then=_name_of(_ANCESTORS)
            ),
            read=status(other, P2P_READ),
            write=status(other, P2P_WRITE),
            nvlink=status(other, P2P_NVLINK),
        )
        for key, other in others
    )


FABRIC_DRIVER_MIN = 550
"""Older drivers crash on the versioned call. Source: leptonai/gpud."""


def read_fabric(door: Door, handle: Any, driver: Reading[str]) -> Fabric:
    """Membership in an NVLink domain, by the newest structure that the driver knows."""
    if not _is_newer(driver.value or "", FABRIC_DRIVER_MIN):
        none = door.absent(ReadingStatus.MISSING_SYMBOL, f"driver before {FABRIC_DRIVER_MIN}")
        return Fabric(none, none, none, none)
    info = _ask_fabric(door, handle, "c_nvmlGpuFabricInfo_v3_t")
    if info.code == 25 or info.status is ReadingStatus.MISSING_SYMBOL:
        info = _ask_fabric(door, handle, "c_nvmlGpuFabricInfo_v2_t")
    return Fabric(
        state=derive(info, lambda one: _FABRIC_STATES.get(one.state, f"state {one.state}")),
        cluster_uuid=derive(info, _cluster_uuid),
        clique_id=derive(info, lambda one: int(one.cliqueId)),
        health=derive(info, _fabric_health),
    )


def _is_newer(driver: str, least: int) -> bool:
    major = driver.split(".", maxsplit=1)[0]
    return major.isdecimal() and int(major) >= least


def _ask_fabric(door: Door, handle: Any, struct: str) -> Reading[Any]:
    return door.fill("nvmlDeviceGetGpuFabricInfoV", handle, struct)


def _cluster_uuid(info: Any) -> str:
    return str(uuid.UUID(bytes=raw_bytes(info, "clusterUuid")))


def _fabric_health(info: Any) -> str:
    if not hasattr(info, "healthSummary"):
        raise NotReportedError("the driver has no summary of the fabric's health")
    summary = int(info.healthSummary)
    return _FABRIC_HEALTH.get(summary, f"health {summary}")
