"""The nodes of a cluster and their GPUs as plain objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mlsched.adapters.kubernetes.nodes import build_node, layer_of
from mlsched.adapters.kubernetes.objects import NodeObject, Pod, parse_units
from mlsched.adapters.kubernetes.requests import is_gpu_resource, profile_of, requested
from mlsched.adapters.kubernetes.slices import split_name
from mlsched.api.clusters.pictures import Lists, Picture
from mlsched.model.nodes import Device
from mlsched.server.views import JsonObject, device_view


def gpu_rows(lists: Lists, picture: Picture) -> list[JsonObject]:
    """One row for each kind of GPU on each node: how many there are, are free, and who holds."""
    rows = []
    for node in sorted(lists.nodes, key=lambda one: one.metadata.name):
        pods = [pod for pod in lists.pods if pod.spec.node_name == node.metadata.name]
        published = picture.gpus.of(node.metadata.name, picture.now.wall_ms).published
        if published is not None:
            rows += _published_rows(node, published, picture)
            continue
        for resource in sorted(filter(is_gpu_resource, node.status.capacity)):
            rows.append(_gpu_row(node, resource, pods, picture))
    return rows


def _published_rows(
    node: NodeObject, published: Iterable[Device], picture: Picture
) -> list[JsonObject]:
    """One row for each DRA driver, model and profile on a node."""
    kinds: dict[tuple[str, str, str], list[Device]] = {}
    for device in published:
        driver = split_name(device.uuid)[0]
        kinds.setdefault((driver, device.model, device.profile), []).append(device)
    return [
        _published_row(node, driver, devices, picture) for (driver, *_), devices in kinds.items()
    ]


def _published_row(
    node: NodeObject, driver: str, devices: list[Device], picture: Picture
) -> JsonObject:
    ledger, allocations = picture.controller.ledger, picture.gpus.allocations
    holders: dict[str, int] = {}
    free = 0
    for device in devices:
        claims = sorted(allocations.holders(device.uuid))
        holder = ledger.holder_of(device.uuid) or (f"claim {claims[0]}" if claims else "")
        if holder:
            holders[holder] = holders.get(holder, 0) + 1
        free += not holder and device.healthy
    sample = devices[0]
    return {
        "node": node.metadata.name,
        "resource": driver,
        "model": sample.model,
        "profile": sample.profile,
        "memory_bytes": sample.memory_bytes,
        "layer": layer_of(node, picture.layer_rules, has_devices=True),
        "capacity": len(devices),
        "total": sum(device.healthy for device in devices),
        "free": free,
        "holders": [{"name": key, "gpus": count} for key, count in sorted(holders.items())],
    }


def _gpu_row(node: NodeObject, resource: str, pods: Iterable[Pod], picture: Picture) -> JsonObject:
    name = node.metadata.name
    capacity = parse_units(node.status.capacity[resource])
    total = parse_units(node.status.allocatable.get(resource, 0))
    profile = profile_of(resource)
    holders: dict[str, int] = {}
    for job in picture.controller.jobs.values():
        count = sum(
            _is_slot(slot, name, profile) for group in job.placements for slot in group.devices
        )
        if job.state.is_placed and count:
            holders[job.id] = count
    taken = picture.usages.of(name).get(resource, 0)
    if taken:
        holders.update(_foreign_holders(pods, resource, set(holders)))
    held = sum(count for holder, count in holders.items() if not holder.startswith("pod "))
    sample = _sample(node, resource)
    return {
        "node": name,
        "resource": resource,
        "model": sample.model if sample else "GPU",
        "profile": profile,
        "memory_bytes": sample.memory_bytes if sample else 0,
        "layer": layer_of(node, picture.layer_rules),
        "capacity": capacity,
        "total": total,
        "free": max(0, total - taken - held - _unhealthy(picture, name, profile)),
        "holders": [{"name": key, "gpus": count} for key, count in sorted(holders.items())],
    }


def _unhealthy(picture: Picture, node: str, profile: str) -> int:
    """Slots that nobody holds and nobody gets."""
    found = picture.controller.ledger.find(node)
    devices = found.devices if found is not None else ()
    return sum(not device.healthy and device.profile == profile for device in devices)


def _is_slot(slot: str, node: str, profile: str) -> bool:
    stem = f"mig-{profile}-" if profile else "gpu-"
    return slot.startswith(f"{node}/{stem}")


def _foreign_holders(pods: Iterable[Pod], resource: str, own: set[str]) -> dict[str, int]:
    """Pods that are no tasks of the jobs above."""
    found = {}
    for pod in pods:
        job = pod.metadata.labels.get("mlsched.io/job")
        if pod.is_over or (job and f"{pod.metadata.namespace}/{job}" in own):
            continue
        try:
            count = requested(pod).get(resource, 0)
        except ValueError:
            continue
        if count:
            found[f"pod {pod.metadata.key}"] = count
    return found


def _sample(node: NodeObject, resource: str) -> Device | None:
    """One device of a resource, for its model and memory."""
    profile = profile_of(resource)
    built = build_node(node, {}, lambda slot: False)
    return next((device for device in built.devices if device.profile == profile), None)


def cluster_view(picture: Picture, context: str) -> JsonObject:
    """All nodes together, in the form that one machine has."""
    ledger, controller = picture.controller.ledger, picture.controller
    nodes = list(ledger.nodes.values())
    devices = []
    for node in nodes:
        for device in node.devices:
            holder = controller.jobs.get(ledger.holder_of(device.uuid) or "")
            devices.append(device_view(device, holder.name if holder else None))
    return {
        "name": f"{context} ({len(nodes)} node{'' if len(nodes) == 1 else 's'})",
        "layer": "",
        "milli_cpus": sum(node.milli_cpus for node in nodes),
        "memory_bytes": sum(node.memory_bytes for node in nodes),
        "free_milli_cpus": sum(ledger.free_milli_cpus(node.name) for node in nodes),
        "free_memory_bytes": sum(ledger.free_memory_bytes(node.name) for node in nodes),
        "devices": devices,
        "note": None,
    }
