"""The nodes of a cluster and their GPUs as plain objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mlsched.adapters.kubernetes.nodes import build_node, layer_of
from mlsched.adapters.kubernetes.objects import NodeObject, Pod, parse_units
from mlsched.adapters.kubernetes.requests import is_gpu_resource, profile_of, requested
from mlsched.api.clusters.pictures import Lists, Picture
from mlsched.model.nodes import Device
from mlsched.server.views import JsonObject


def gpu_rows(lists: Lists, picture: Picture) -> list[JsonObject]:
    """One row for each kind of GPU on each node: how many there are, are free, and who holds."""
    rows = []
    for node in sorted(lists.nodes, key=lambda one: one.metadata.name):
        pods = [pod for pod in lists.pods if pod.spec.node_name == node.metadata.name]
        for resource in sorted(filter(is_gpu_resource, node.status.capacity)):
            rows.append(_gpu_row(node, resource, pods, picture))
    return rows


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
        "layer": layer_of(node, ()),
        "capacity": capacity,
        "total": total,
        "free": max(0, total - taken - held),
        "holders": [{"name": key, "gpus": count} for key, count in sorted(holders.items())],
    }


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
            holder = ledger.holder_of(device.uuid)
            job = controller.jobs.get(holder) if holder else None
            devices.append(
                {
                    "uuid": device.uuid,
                    "model": device.model,
                    "memory_bytes": device.memory_bytes,
                    "profile": device.profile,
                    "healthy": device.healthy,
                    "health_reason": device.health_reason,
                    "holder": job.name if job else None,
                }
            )
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
