"""Why a request does not fit, now or ever: the one binding shortage, with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mlsched.core.devices import describe, matches
from mlsched.core.filters import (
    AVAILABLE,
    WELL,
    admits,
    describe_conditions,
    describe_exclusion,
)
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.model.nodes import Device, Node
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.resources import GroupNeed
from mlsched.units import count_cpus, format_bytes, format_cpus

HOLDERS_SHOWN_MAX = 5
_NODES_SHOWN_MAX = 5

Evidence = dict[str, str | int | list[str]]
Counted = tuple[tuple[GroupNeed, int], ...]
"""Different needs, and how many groups have each."""


def count_needs(needs: Sequence[GroupNeed]) -> Counted:
    """Equal needs counted, in the order in which each is first met."""
    counts: dict[GroupNeed, int] = {}
    for need in needs:
        counts[need] = counts.get(need, 0) + 1
    return tuple(counts.items())


def _parts(needs: Sequence[GroupNeed]) -> Iterator[Counted]:
    """What may be short: each different need by itself, then all of them together."""
    counted = count_needs(needs)
    for one in counted:
        yield (one,)
    if len(counted) > 1:
        yield counted


def never_fits(needs: Sequence[GroupNeed], ledger: Ledger) -> Reason | None:
    """A reason when the empty nodes, all well, could not hold the gang; None when they could.

    Health, cordons and conditions of nodes are left out on purpose: what is sick today may be well
    tomorrow. What jobs hold does not matter.
    """
    if place(needs, ledger.empty, WELL) is not None:
        return None
    nodes = list(ledger.nodes.values())
    for part in _parts(needs):
        for check in (_never_by_rule, _never_by_gpus, _never_by_cpus, _never_by_memory):
            found = check(part, nodes)
            if found is not None:
                return Reason(ReasonCode.NEVER_FITS, *found)
    text = f"asks for {describe_needs(needs)}, which no set of nodes here has together"
    evidence: Evidence = {"resource": "shape", "asked": len(needs), "total": len(nodes)}
    return Reason(ReasonCode.NEVER_FITS, text, evidence)


def _eligible(part: Counted, nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if any(admits(need, node, WELL) for need, _ in part)]


def _never_by_rule(part: Counted, nodes: Sequence[Node]) -> tuple[str, Evidence] | None:
    for need, groups in part:
        found = describe_exclusion(need, nodes)
        if found is not None:
            rule, text = found
            return text, {"resource": rule, "asked": groups, "total": len(nodes)}
    return None


def _there(eligible: Sequence[Node], nodes: Sequence[Node]) -> str:
    if len(eligible) == len(nodes):
        return "what exists"
    count = len(eligible)
    return f"what exists on the {count} node{'s' if count > 1 else ''} that would do"


def _never_by_gpus(part: Counted, nodes: Sequence[Node]) -> tuple[str, Evidence] | None:
    asked = sum(need.gpus * groups for need, groups in part)
    eligible = _eligible(part, nodes)
    total = len(_fitting(part, eligible))
    if asked <= total:
        return None
    devices = [device for node in eligible for device in node.devices]
    note = next((node.gpu_note for node in eligible if node.gpu_note), "")
    why = f" ({note})" if note and not devices else ""
    found = f"{_there(eligible, nodes)} is {describe(devices)}{why}"
    text = f"asks for {_describe_gpus_of(part)}, and {found}"
    return text, {"resource": "gpus", "asked": asked, "total": total}


def _never_by_cpus(part: Counted, nodes: Sequence[Node]) -> tuple[str, Evidence] | None:
    asked = sum(need.milli_cpus * groups for need, groups in part)
    eligible = _eligible(part, nodes)
    total = sum(node.milli_cpus for node in eligible)
    if asked <= total:
        return None
    found = f"{_there(eligible, nodes)} is {format_cpus(total)}"
    text = f"asks for {count_cpus(asked)}, and {found}"
    return text, {"resource": "cpus", "asked": asked, "total": total}


def _never_by_memory(part: Counted, nodes: Sequence[Node]) -> tuple[str, Evidence] | None:
    asked = sum(need.memory_bytes * groups for need, groups in part)
    eligible = _eligible(part, nodes)
    total = sum(node.memory_bytes for node in eligible)
    if asked <= total:
        return None
    found = f"{_there(eligible, nodes)} is {format_bytes(total)}"
    text = f"asks for {format_bytes(asked)} of memory, and {found}"
    return text, {"resource": "memory", "asked": asked, "total": total}


def _fitting(part: Counted, nodes: Sequence[Node]) -> list[Device]:
    """Devices that would do for some need, on nodes that would do for it."""
    asking = [need for need, _ in part if need.gpus]
    return [
        device
        for node in nodes
        if (here := [need for need in asking if admits(need, node, WELL)])
        for device in node.devices
        if any(matches(device, need) for need in here)
    ]


def shortage(needs: Sequence[GroupNeed], ledger: Ledger, names: Mapping[str, str]) -> Reason:
    """Why a gang that could fit does not fit now.

    Args:
        names: Names of the jobs that hold something, by id: the evidence for people.
    """
    for part in _parts(needs):
        for check in (_short_of_gpus, _short_of_cpus, _short_of_memory, _short_of_pods):
            found = check(part, ledger, names)
            if found is not None:
                return found
    if place(needs, ledger, AVAILABLE) is not None:
        return _unavailable(needs, ledger)
    if place(needs, ledger, WELL) is not None:
        return _unhealthy(needs, ledger)
    text = f"needs {describe_needs(needs)}: enough is free, but not on the same nodes"
    evidence: Evidence = {"resource": "shape", "groups": len(needs)}
    return Reason(ReasonCode.FRAGMENTED, text, evidence)


def _short_of_gpus(part: Counted, ledger: Ledger, names: Mapping[str, str]) -> Reason | None:
    asked = sum(need.gpus * groups for need, groups in part)
    fitting = _fitting(part, list(ledger.nodes.values()))
    free = [device for device in fitting if ledger.holder_of(device.uuid) is None]
    usable = [device for device in free if device.healthy]
    if len(usable) >= asked:
        return None
    holders = _holders(ledger, names, [d.uuid for d in fitting])
    evidence: Evidence = {
        "resource": "gpus",
        "asked": asked,
        "free": len(usable),
        "total": len(fitting),
        "holders": holders,
    }
    text = f"needs {_describe_gpus_of(part)}: {len(usable)} of {len(fitting)} free"
    if len(free) >= asked:
        sick = next(device for device in free if not device.healthy)
        text += f", {len(free) - len(usable)} unhealthy ({sick.health_reason or 'health unknown'})"
        return Reason(ReasonCode.DEVICES_UNHEALTHY, text, evidence)
    return Reason(ReasonCode.WAITING_FOR_CAPACITY, text + _held_by(holders), evidence)


def _unavailable(needs: Sequence[GroupNeed], ledger: Ledger) -> Reason:
    """The gang would fit if nodes that are cordoned or not ready took jobs."""
    closed = [
        f"{node.name} ({', '.join(found)})"
        for node in _eligible(count_needs(needs), list(ledger.nodes.values()))
        if (found := describe_conditions(needs, node))
    ]
    more = f" and {len(closed) - _NODES_SHOWN_MAX} more" if len(closed) > _NODES_SHOWN_MAX else ""
    shown = f"{', '.join(closed[:_NODES_SHOWN_MAX])}{more}"
    text = f"needs {describe_needs(needs)}: would fit if these nodes took jobs: {shown}"
    return Reason(ReasonCode.NODES_UNAVAILABLE, text, {"resource": "nodes", "nodes": closed})


def _unhealthy(needs: Sequence[GroupNeed], ledger: Ledger) -> Reason:
    """The gang would fit if every GPU were well."""
    counted = count_needs(needs)
    sick = [
        f"{device.uuid}: {device.health_reason or 'health unknown'}"
        for device in _fitting(counted, list(ledger.nodes.values()))
        if not device.healthy and ledger.holder_of(device.uuid) is None
    ]
    text = f"needs {_describe_gpus_of(counted)}: would fit if these were healthy: {sick[0]}"
    return Reason(ReasonCode.DEVICES_UNHEALTHY, text, {"resource": "gpus", "unhealthy": sick})


def _short_of_cpus(part: Counted, ledger: Ledger, names: Mapping[str, str]) -> Reason | None:
    asked = sum(need.milli_cpus * groups for need, groups in part)
    eligible = _eligible(part, list(ledger.nodes.values()))
    free = sum(max(0, ledger.free_milli_cpus(node.name)) for node in eligible)
    if free >= asked:
        return None
    total = sum(node.milli_cpus for node in eligible)
    text = f"needs {count_cpus(asked)}: {format_cpus(free)} of {format_cpus(total)} free"
    return _capacity("cpus", text, (asked, free, total), _holders(ledger, names))


def _short_of_memory(part: Counted, ledger: Ledger, names: Mapping[str, str]) -> Reason | None:
    eligible = _eligible(part, list(ledger.nodes.values()))
    total = sum(node.memory_bytes for node in eligible)
    asked = sum(need.memory_bytes * groups for need, groups in part)
    if len(part) == 1 and part[0][0].whole_memory:
        asked = total
    free = sum(max(0, ledger.free_memory_bytes(node.name)) for node in eligible)
    if free >= asked:
        return None
    text = (
        f"needs {format_bytes(asked)} of memory: {format_bytes(free)} of {format_bytes(total)} free"
    )
    return _capacity("memory", text, (asked, free, total), _holders(ledger, names))


def _short_of_pods(part: Counted, ledger: Ledger, names: Mapping[str, str]) -> Reason | None:
    """Nodes that would do run as many pods as they may."""
    eligible = _eligible(part, list(ledger.nodes.values()))
    if not all(node.pods_max for node in eligible):
        return None
    asked = sum(groups for _, groups in part)
    free = sum(max(0, node.pods_max - ledger.group_count(node.name)) for node in eligible)
    if free >= asked:
        return None
    total = sum(node.pods_max for node in eligible)
    noun = "pod" if asked == 1 else "pods"
    text = f"needs room for {asked} {noun}: {free} of {total} free"
    return _capacity("pods", text, (asked, free, total), _holders(ledger, names))


def _capacity(
    resource: str, text: str, amounts: tuple[int, int, int], holders: list[str]
) -> Reason:
    asked, free, total = amounts
    evidence: Evidence = {
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


def _describe_gpus_of(part: Counted) -> str:
    if len(part) == 1:
        return describe_gpus(*part[0])
    asked = sum(need.gpus * groups for need, groups in part)
    return f"{asked} GPUs in all"


def describe_needs(needs: Sequence[GroupNeed]) -> str:
    """The need of a whole gang in words: of each kind of group, joined by ``and``."""
    return " and ".join(describe_need(need, groups) for need, groups in count_needs(needs))
