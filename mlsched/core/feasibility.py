"""Why a request does not fit, now or ever: the one binding shortage, with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
from mlsched.core.tallies import Tally
from mlsched.model.nodes import Node
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.resources import GroupNeed
from mlsched.units import count_cpus, format_bytes, format_cpus

HOLDERS_SHOWN_MAX = 5
HOLDERS_NAMED_MAX = 100
"""Where more jobs hold something, they are counted and not named: nobody reads so many names."""

_DEVICES_LOOKED_AT_MAX = 1_000
_NODES_SHOWN_MAX = 5
_LISTED_MAX = 100
_VERDICTS_MAX = 10_000

Evidence = dict[str, str | int | list[str]]
Counted = tuple[tuple[GroupNeed, int], ...]
"""Different needs, and how many groups have each."""
NameOf = Callable[[str], str]
"""The name of a job by its id: the evidence for people."""


def count_needs(needs: Sequence[GroupNeed]) -> Counted:
    """Equal needs counted, in the order in which each is first met."""
    if needs.count(needs[0]) == len(needs):
        return ((needs[0], len(needs)),)
    counts: dict[GroupNeed, int] = {}
    for need in needs:
        counts[need] = counts.get(need, 0) + 1
    return tuple(counts.items())


def _parts(counted: Counted) -> Iterator[Counted]:
    """What may be short: each different need by itself, then all of them together."""
    for one in counted:
        yield (one,)
    if len(counted) > 1:
        yield counted


def _tally(part: Counted, ledger: Ledger) -> Tally:
    return ledger.tally(tuple(need for need, _ in part))


def _asked(part: Counted, attribute: str) -> int:
    return sum(int(getattr(need, attribute)) * groups for need, groups in part)


def never_fits(needs: Sequence[GroupNeed], ledger: Ledger) -> Reason | None:
    """A reason when the empty nodes, all well, could not hold the gang; None when they could.

    Health, cordons and conditions of nodes are left out on purpose: what is sick today may be well
    tomorrow. What jobs hold does not matter.

    Cost: O(1) for a gang that was asked for before, until a node changes.
    """
    counted = count_needs(needs)
    if len(ledger.verdicts) > _VERDICTS_MAX:
        ledger.verdicts.clear()
    if counted not in ledger.verdicts:
        fits = place(needs, ledger.empty, WELL) is not None
        ledger.verdicts[counted] = None if fits else _never(counted, ledger)
    return ledger.verdicts[counted]


def _never(counted: Counted, ledger: Ledger) -> Reason:
    for part in _parts(counted):
        for check in (_never_by_rule, _never_by_gpus, _never_by_cpus, _never_by_memory):
            found = check(part, ledger)
            if found is not None:
                return Reason(ReasonCode.NEVER_FITS, *found)
    groups = sum(count for _, count in counted)
    text = f"asks for {describe_counted(counted)}, which no set of nodes here has together"
    evidence: Evidence = {"resource": "shape", "asked": groups, "total": len(ledger.nodes)}
    return Reason(ReasonCode.NEVER_FITS, text, evidence)


def _never_by_rule(part: Counted, ledger: Ledger) -> tuple[str, Evidence] | None:
    if _tally(part, ledger).total.nodes:
        return None
    for need, groups in part:
        found = describe_exclusion(need, list(ledger.nodes.values()))
        if found is not None:
            rule, text = found
            return text, {"resource": rule, "asked": groups, "total": len(ledger.nodes)}
    return None


def _there(part: Counted, ledger: Ledger) -> str:
    count = _tally(part, ledger).total.nodes
    if count == len(ledger.nodes):
        return "what exists"
    return f"what exists on the {count} node{'s' if count > 1 else ''} that would do"


def _never_by_gpus(part: Counted, ledger: Ledger) -> tuple[str, Evidence] | None:
    asked, total = _asked(part, "gpus"), _tally(part, ledger).total.gpus
    if asked <= total:
        return None
    eligible = [
        node for node in ledger.nodes.values() if any(admits(need, node, WELL) for need, _ in part)
    ]
    devices = [device for node in eligible for device in node.devices]
    note = next((node.gpu_note for node in eligible if node.gpu_note), "")
    why = f" ({note})" if note and not devices else ""
    found = f"{_there(part, ledger)} is {describe(devices)}{why}"
    text = f"asks for {_describe_gpus_of(part)}, and {found}"
    return text, {"resource": "gpus", "asked": asked, "total": total}


def _never_by_cpus(part: Counted, ledger: Ledger) -> tuple[str, Evidence] | None:
    asked, total = _asked(part, "milli_cpus"), _tally(part, ledger).total.cpus
    if asked <= total:
        return None
    text = f"asks for {count_cpus(asked)}, and {_there(part, ledger)} is {format_cpus(total)}"
    return text, {"resource": "cpus", "asked": asked, "total": total}


def _never_by_memory(part: Counted, ledger: Ledger) -> tuple[str, Evidence] | None:
    asked, total = _asked(part, "memory_bytes"), _tally(part, ledger).total.memory
    if asked <= total:
        return None
    found = f"{_there(part, ledger)} is {format_bytes(total)}"
    text = f"asks for {format_bytes(asked)} of memory, and {found}"
    return text, {"resource": "memory", "asked": asked, "total": total}


def shortage(needs: Sequence[GroupNeed], ledger: Ledger, name_of: NameOf) -> Reason:
    """Why a gang that could fit does not fit now."""
    counted = count_needs(needs)
    for part in _parts(counted):
        for check in (_short_of_gpus, _short_of_cpus, _short_of_memory, _short_of_pods):
            found = check(part, ledger, name_of)
            if found is not None:
                return found
    if ledger.troubled and place(needs, ledger, AVAILABLE) is not None:
        return _unavailable(counted, ledger)
    if ledger.troubled and place(needs, ledger, WELL) is not None:
        return _unhealthy(counted, ledger)
    text = f"needs {describe_counted(counted)}: enough is free, but not on the same nodes"
    evidence: Evidence = {"resource": "shape", "groups": len(needs)}
    return Reason(ReasonCode.FRAGMENTED, text, evidence)


def _short_of_gpus(part: Counted, ledger: Ledger, name_of: NameOf) -> Reason | None:
    asked, tally = _asked(part, "gpus"), _tally(part, ledger)
    there = tally.total
    if there.gpus_usable >= asked:
        return None
    text = f"needs {_describe_gpus_of(part)}: {there.gpus_usable} of {there.gpus} free"
    amounts = (asked, there.gpus_usable, there.gpus)
    holders = _holders_of_gpus(part, ledger, name_of)
    if there.gpus_free >= asked:
        cause = tally.first_sick().health_reason or "health unknown"
        text += f", {there.gpus_free - there.gpus_usable} unhealthy ({cause})"
        evidence = _evidence("gpus", amounts, holders)
        return Reason(ReasonCode.DEVICES_UNHEALTHY, text, evidence)
    return _capacity("gpus", text, amounts, holders)


def _troubled(counted: Counted, ledger: Ledger) -> list[Node]:
    nodes = [ledger.nodes[name] for name in sorted(ledger.troubled)]
    return [node for node in nodes if any(admits(need, node, WELL) for need, _ in counted)]


def _unavailable(counted: Counted, ledger: Ledger) -> Reason:
    """The gang would fit if nodes that are cordoned or not ready took jobs."""
    needs = [need for need, _ in counted]
    closed = [
        f"{node.name} ({', '.join(found)})"
        for node in _troubled(counted, ledger)
        if (found := describe_conditions(needs, node))
    ]
    more = f" and {len(closed) - _NODES_SHOWN_MAX} more" if len(closed) > _NODES_SHOWN_MAX else ""
    shown = f"{', '.join(closed[:_NODES_SHOWN_MAX])}{more}"
    text = f"needs {describe_counted(counted)}: would fit if these nodes took jobs: {shown}"
    evidence: Evidence = {"resource": "nodes", "nodes": closed[:_LISTED_MAX]}
    return Reason(ReasonCode.NODES_UNAVAILABLE, text, evidence)


def _unhealthy(counted: Counted, ledger: Ledger) -> Reason:
    """The gang would fit if every GPU were well."""
    sick = [
        f"{device.uuid}: {device.health_reason or 'health unknown'}"
        for node in _troubled(counted, ledger)
        for device in ledger.free_devices(node.name)
        if not device.healthy and any(matches(device, need) for need, _ in counted if need.gpus)
    ]
    text = f"needs {_describe_gpus_of(counted)}: would fit if these were healthy: {sick[0]}"
    evidence: Evidence = {"resource": "gpus", "unhealthy": sick[:_LISTED_MAX]}
    return Reason(ReasonCode.DEVICES_UNHEALTHY, text, evidence)


def _short_of_cpus(part: Counted, ledger: Ledger, name_of: NameOf) -> Reason | None:
    asked, there = _asked(part, "milli_cpus"), _tally(part, ledger).total
    if there.cpus_free >= asked:
        return None
    free, total = format_cpus(there.cpus_free), format_cpus(there.cpus)
    text = f"needs {count_cpus(asked)}: {free} of {total} free"
    amounts = (asked, there.cpus_free, there.cpus)
    return _capacity("cpus", text, amounts, _holders(ledger, name_of))


def _short_of_memory(part: Counted, ledger: Ledger, name_of: NameOf) -> Reason | None:
    asked, there = _asked(part, "memory_bytes"), _tally(part, ledger).total
    if len(part) == 1 and part[0][0].whole_memory:
        asked = there.memory
    if there.memory_free >= asked:
        return None
    free, total = format_bytes(there.memory_free), format_bytes(there.memory)
    text = f"needs {format_bytes(asked)} of memory: {free} of {total} free"
    amounts = (asked, there.memory_free, there.memory)
    return _capacity("memory", text, amounts, _holders(ledger, name_of))


def _short_of_pods(part: Counted, ledger: Ledger, name_of: NameOf) -> Reason | None:
    """Nodes that would do run as many pods as they may."""
    asked, there = sum(groups for _, groups in part), _tally(part, ledger).total
    if there.unbounded or there.pods_free >= asked:
        return None
    noun = "pod" if asked == 1 else "pods"
    text = f"needs room for {asked} {noun}: {there.pods_free} of {there.pods} free"
    amounts = (asked, there.pods_free, there.pods)
    return _capacity("pods", text, amounts, _holders(ledger, name_of))


class _Holders:
    """Jobs that hold what is waited for: by name where they are few, else only their number."""

    def __init__(self, named: list[str], count: int) -> None:
        self.named = named
        self.count = count

    def __str__(self) -> str:
        if not self.named:
            return f"; held by {self.count} jobs" if self.count else ""
        shown = ", ".join(self.named[:HOLDERS_SHOWN_MAX])
        more = len(self.named) - HOLDERS_SHOWN_MAX
        return f"; held by {shown}" + (f" and {more} more" if more > 0 else "")


def _capacity(resource: str, text: str, amounts: tuple[int, int, int], holders: _Holders) -> Reason:
    evidence = _evidence(resource, amounts, holders)
    return Reason(ReasonCode.WAITING_FOR_CAPACITY, f"{text}{holders}", evidence)


def _evidence(resource: str, amounts: tuple[int, int, int], holders: _Holders) -> Evidence:
    asked, free, total = amounts
    return {
        "resource": resource,
        "asked": asked,
        "free": free,
        "total": total,
        "holders": holders.named,
    }


def _holders(ledger: Ledger, name_of: NameOf) -> _Holders:
    if len(ledger.held) > HOLDERS_NAMED_MAX:
        return _Holders([], len(ledger.held))
    return _Holders(sorted(name_of(job_id) for job_id in ledger.held), len(ledger.held))


def _holders_of_gpus(part: Counted, ledger: Ledger, name_of: NameOf) -> _Holders:
    many = len(ledger.held) > HOLDERS_NAMED_MAX
    if many or ledger.held_device_count > _DEVICES_LOOKED_AT_MAX:
        return _Holders([], ledger.device_job_count)
    counts: dict[str, int] = {}
    for job_id, groups in ledger.held.items():
        count = sum(_count_fitting(part, ledger, group.node, group.devices) for group in groups)
        if count:
            counts[job_id] = count
    named = sorted(f"{name_of(job_id)} ({count})" for job_id, count in counts.items())
    return _Holders(named, len(named))


def _count_fitting(part: Counted, ledger: Ledger, name: str, uuids: tuple[str, ...]) -> int:
    """How many of these devices would do for some need, if the node would."""
    node = ledger.find(name)
    if node is None or not uuids:
        return 0
    here = [need for need, _ in part if need.gpus and admits(need, node, WELL)]
    return sum(
        device.uuid in uuids and any(matches(device, need) for need in here)
        for device in node.devices
    )


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


def describe_counted(counted: Counted) -> str:
    """The need of a whole gang in words: of each kind of group, joined by ``and``."""
    return " and ".join(describe_need(need, groups) for need, groups in counted)
