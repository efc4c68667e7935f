"""Why a request does not fit, now or ever: the one binding shortage, with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlsched.core.devices import describe, matches
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.model.nodes import Device, Node
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.resources import GroupNeed
from mlsched.units import count_cpus, format_bytes, format_cpus

HOLDERS_SHOWN_MAX = 5


def never_fits(need: GroupNeed, groups: int, nodes: Iterable[Node]) -> Reason | None:
    """A reason when the empty nodes, all healthy, could not hold the gang; None when they could.

    Health is left out on purpose: a GPU that is sick today may be well tomorrow.
    """
    healthy = [_all_well(node) for node in nodes]
    if place(need, groups, Ledger(healthy)) is not None:
        return None
    return Reason(ReasonCode.NEVER_FITS, *_never_text(need, groups, healthy))


def _all_well(node: Node) -> Node:
    if node.schedulable and all(device.healthy for device in node.devices):
        return node
    devices = tuple(
        Device(d.uuid, d.model, d.memory_bytes, d.profile, d.parent_uuid) for d in node.devices
    )
    return Node(node.name, node.milli_cpus, node.memory_bytes, devices, node.layer)


def _never_text(
    need: GroupNeed, groups: int, nodes: list[Node]
) -> tuple[str, dict[str, str | int | list[str]]]:
    devices = [device for node in nodes for device in node.devices]
    fitting = [device for device in devices if matches(device, need)]
    cpus = sum(node.milli_cpus for node in nodes)
    memory = sum(node.memory_bytes for node in nodes)
    if need.gpus * groups > len(fitting):
        found = describe(devices)
        note = next((node.gpu_note for node in nodes if node.gpu_note), "")
        why = f" ({note})" if note and not devices else ""
        text = f"asks for {describe_gpus(need, groups)}, and what exists is {found}{why}"
        return text, {"resource": "gpus", "asked": need.gpus * groups, "total": len(fitting)}
    if need.milli_cpus * groups > cpus:
        text = (
            f"asks for {count_cpus(need.milli_cpus * groups)}, "
            f"and what exists is {format_cpus(cpus)}"
        )
        return text, {"resource": "cpus", "asked": need.milli_cpus * groups, "total": cpus}
    if need.memory_bytes * groups > memory:
        text = (
            f"asks for {format_bytes(need.memory_bytes * groups)} of memory, "
            f"and what exists is {format_bytes(memory)}"
        )
        return text, {"resource": "memory", "asked": need.memory_bytes * groups, "total": memory}
    text = f"asks for {describe_need(need, groups)}, which no set of nodes here has together"
    return text, {"resource": "shape", "asked": groups, "total": len(nodes)}


def shortage(need: GroupNeed, groups: int, ledger: Ledger, names: Mapping[str, str]) -> Reason:
    """Why a gang that could fit does not fit now.

    Args:
        names: Names of the jobs that hold something, by id: the evidence for people.
    """
    for check in (_short_of_gpus, _short_of_cpus, _short_of_memory):
        found = check(need, groups, ledger, names)
        if found is not None:
            return found
    well = Ledger([_all_well(node) for node in ledger.nodes.values()], ledger.held)
    if place(need, groups, well) is not None:
        return _unhealthy(need, groups, ledger)
    text = f"needs {describe_need(need, groups)}: enough is free, but not on the same nodes"
    return Reason(ReasonCode.FRAGMENTED, text, {"resource": "shape", "groups": groups})


def _short_of_gpus(
    need: GroupNeed, groups: int, ledger: Ledger, names: Mapping[str, str]
) -> Reason | None:
    asked = need.gpus * groups
    fitting = [d for n in ledger.nodes.values() for d in n.devices if matches(d, need)]
    free = [device for device in fitting if ledger.holder_of(device.uuid) is None]
    usable = [device for device in free if device.healthy]
    if len(usable) >= asked:
        return None
    holders = _holders(ledger, names, [d.uuid for d in fitting])
    evidence: dict[str, str | int | list[str]] = {
        "resource": "gpus",
        "asked": asked,
        "free": len(usable),
        "total": len(fitting),
        "holders": holders,
    }
    text = f"needs {describe_gpus(need, groups)}: {len(usable)} of {len(fitting)} free"
    if len(free) >= asked:
        sick = next(device for device in free if not device.healthy)
        text += f", {len(free) - len(usable)} unhealthy ({sick.health_reason or 'health unknown'})"
        return Reason(ReasonCode.DEVICES_UNHEALTHY, text, evidence)
    return Reason(ReasonCode.WAITING_FOR_CAPACITY, text + _held_by(holders), evidence)


def _unhealthy(need: GroupNeed, groups: int, ledger: Ledger) -> Reason:
    """The gang would fit if every GPU were well."""
    sick = [
        f"{device.uuid}: {device.health_reason or 'health unknown'}"
        for name, node in ledger.nodes.items()
        for device in ledger.free_devices(name)
        if not device.healthy or not node.schedulable
    ]
    text = f"needs {describe_gpus(need, groups)}: would fit if these were healthy: {sick[0]}"
    return Reason(ReasonCode.DEVICES_UNHEALTHY, text, {"resource": "gpus", "unhealthy": sick})


def _short_of_cpus(
    need: GroupNeed, groups: int, ledger: Ledger, names: Mapping[str, str]
) -> Reason | None:
    asked = need.milli_cpus * groups
    free = sum(max(0, ledger.free_milli_cpus(name)) for name in ledger.nodes)
    if free >= asked:
        return None
    total = sum(node.milli_cpus for node in ledger.nodes.values())
    text = f"needs {count_cpus(asked)}: {format_cpus(free)} of {format_cpus(total)} free"
    return _capacity("cpus", text, (asked, free, total), _holders(ledger, names))


def _short_of_memory(
    need: GroupNeed, groups: int, ledger: Ledger, names: Mapping[str, str]
) -> Reason | None:
    total = sum(node.memory_bytes for node in ledger.nodes.values())
    asked = total if need.whole_memory else need.memory_bytes * groups
    free = sum(max(0, ledger.free_memory_bytes(name)) for name in ledger.nodes)
    if free >= asked:
        return None
    text = (
        f"needs {format_bytes(asked)} of memory: {format_bytes(free)} of {format_bytes(total)} free"
    )
    return _capacity("memory", text, (asked, free, total), _holders(ledger, names))


def _capacity(
    resource: str, text: str, amounts: tuple[int, int, int], holders: list[str]
) -> Reason:
    asked, free, total = amounts
    evidence: dict[str, str | int | list[str]] = {
        "resource": resource,
        "asked": asked,
        "free": free,
        "total": total,
        "holders": holders,
    }
    return Reason(ReasonCode.WAITING_FOR_CAPACITY, text + _held_by(holders), evidence)


def _holders(ledger: Ledger, names: Mapping[str, str], uuids: list[str] | None = None) -> list[str]:
    if uuids is None:
        return sorted(names.get(job_id, job_id) for job_id in ledger.held)
    counts: dict[str, int] = {}
    for uuid in uuids:
        job_id = ledger.holder_of(uuid)
        if job_id is not None:
            counts[job_id] = counts.get(job_id, 0) + 1
    return sorted(f"{names.get(job_id, job_id)} ({count})" for job_id, count in counts.items())


def _held_by(holders: list[str]) -> str:
    if not holders:
        return ""
    shown = ", ".join(holders[:HOLDERS_SHOWN_MAX])
    more = len(holders) - HOLDERS_SHOWN_MAX
    return f"; held by {shown}" + (f" and {more} more" if more > 0 else "")


def describe_gpus(need: GroupNeed, groups: int) -> str:
    """``2 GPUs``, ``1 H100 GPU``, ``4 groups of 2 GPUs``, ``3 MIG instances of 1g.10gb``."""
    kind = f"{need.gpu_model} " if need.gpu_model and not need.mig else ""
    noun = f"MIG instance of {need.gpu_model}" if need.mig else f"{kind}GPU"
    if need.gpus != 1:
        noun = noun.replace("instance", "instances", 1) if need.mig else f"{noun}s"
    text = f"{need.gpus} {noun}"
    if need.gpu_memory_min_bytes:
        text += f" with {format_bytes(need.gpu_memory_min_bytes)} or more"
    return f"{groups} groups of {text}" if groups > 1 else text


def describe_need(need: GroupNeed, groups: int) -> str:
    """The whole need in words: GPUs, CPUs, memory."""
    parts = [describe_gpus(need, 1)] if need.gpus else []
    parts.append(count_cpus(need.milli_cpus))
    if need.whole_memory:
        parts.append("all memory of a node")
    elif need.memory_bytes:
        parts.append(format_bytes(need.memory_bytes))
    text = ", ".join(parts)
    return f"{groups} groups of {text}" if groups > 1 else text
