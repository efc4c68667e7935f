"""What a pod asks of its node, whoever made the pod: a need as placement knows it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import cast

from msgspec import ValidationError, convert, to_builtins

from mlsched.adapters.kubernetes.objects import (
    Container,
    Expression,
    Pod,
    Quantities,
    SelectorTerm,
    TolerationObject,
    parse_milli,
    parse_units,
)
from mlsched.model.affinities import NAME_FIELD, OPERATORS, NodeTerm, Operator, Requirement
from mlsched.model.resources import GroupNeed
from mlsched.model.specs import Toleration

GPU = "nvidia.com/gpu"
MIG_PREFIX = "nvidia.com/mig-"


def is_gpu_resource(name: str) -> bool:
    """Whether an extended resource stands for GPUs or MIG instances."""
    return name == GPU or name.startswith(MIG_PREFIX)


def profile_of(resource: str) -> str:
    """``1g.10gb`` of ``nvidia.com/mig-1g.10gb``; empty for whole GPUs."""
    return resource.removeprefix(MIG_PREFIX) if resource.startswith(MIG_PREFIX) else ""


Amounts = dict[str, int]


def requested(pod: Pod) -> Amounts:
    """What a pod takes from its node, by resource; ``cpu`` in thousandths, all else in units.

    Init containers run one after another, those that restart stay beside the others.
    Source: the rule of Kubernetes' resource helpers (PodRequests, KEP-753).

    Raises:
        ValueError: a quantity is none.
    """
    running: Amounts = {}
    for container in pod.spec.containers:
        _add(running, _of(container))
    beside: Amounts = {}
    starting: Amounts = {}
    for container in pod.spec.init_containers:
        if container.restart_policy == "Always":
            _add(beside, _of(container))
            _grow(starting, beside)
        else:
            both = dict(beside)
            _add(both, _of(container))
            _grow(starting, both)
    _add(running, beside)
    _grow(running, starting)
    if pod.spec.resources is not None:
        running.update(_amounts(pod.spec.resources.limits) | _amounts(pod.spec.resources.requests))
    _add(running, _amounts(pod.spec.overhead))
    return running


def _of(container: Container) -> Amounts:
    """Requests; a limit without a request is one."""
    return _amounts(container.resources.limits) | _amounts(container.resources.requests)


def _amounts(quantities: Quantities) -> Amounts:
    return {
        name: parse_milli(value) if name == "cpu" else parse_units(value)
        for name, value in quantities.items()
    }


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _grow(total: Amounts, other: Amounts) -> None:
    for name, amount in other.items():
        total[name] = max(total.get(name, 0), amount)


class UnsupportedPodError(Exception):
    """A pod asks for something that mlsched does not place by; the text says what."""


_PLAIN = re.compile(r"cpu|memory|ephemeral-storage|hugepages-.*|pods")


def need_of_pod(pod: Pod) -> GroupNeed:
    """The need of a foreign pod.

    Raises:
        UnsupportedPodError: it would be placed wrongly, so it is not placed at all.
        ValueError: a quantity is none.
    """
    amounts = requested(pod)
    gpus = [name for name, amount in amounts.items() if is_gpu_resource(name) and amount]
    others = [n for n in amounts if not is_gpu_resource(n) and not _PLAIN.fullmatch(n)]
    if len(gpus) > 1:
        raise UnsupportedPodError(f"it asks for several kinds of GPUs: {', '.join(sorted(gpus))}")
    if others:
        raise UnsupportedPodError(f"it asks for {others[0]}, which is not counted")
    if pod.spec.resource_claims:
        raise UnsupportedPodError("it uses resource claims, which mlsched gives to MLJobs only")
    _refuse_neighbours(pod)
    resource = gpus[0] if gpus else GPU
    profile = profile_of(resource)
    return GroupNeed(
        milli_cpus=amounts.get("cpu", 0),
        memory_bytes=amounts.get("memory", 0),
        gpus=amounts.get(resource, 0),
        gpu_model=profile,
        mig=bool(profile),
        selector=tuple(sorted(pod.spec.node_selector.items())),
        tolerations=tuple(map(_toleration, pod.spec.tolerations)),
        affinity=tuple(_affinity(pod)),
    )


def _toleration(one: TolerationObject) -> Toleration:
    try:
        return convert(to_builtins(one), Toleration)
    except ValidationError as error:
        raise UnsupportedPodError(f"its toleration of {one.key!r}: {error}") from error


def _refuse_neighbours(pod: Pod) -> None:
    affinity = pod.spec.affinity
    for kind in (affinity.pod_affinity, affinity.pod_anti_affinity) if affinity else ():
        if kind is not None and kind.required:
            raise UnsupportedPodError("it requires pod affinity or anti-affinity")
    if any(c.when_unsatisfiable == "DoNotSchedule" for c in pod.spec.topology_spread_constraints):
        raise UnsupportedPodError("it requires a topology spread")


def _affinity(pod: Pod) -> Iterator[NodeTerm]:
    """Terms of its required node affinity; preferred affinity is not looked at.

    Raises:
        UnsupportedPodError: it uses an operator or a field that is not known.
    """
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    if affinity is None or affinity.required is None:
        return
    for term in affinity.required.node_selector_terms or [SelectorTerm()]:
        for field in term.match_fields:
            if field.key != NAME_FIELD:
                raise UnsupportedPodError(f"its node affinity matches the field {field.key}")
        yield NodeTerm(_requirements(term.match_expressions), _requirements(term.match_fields))


def _requirements(expressions: Sequence[Expression]) -> tuple[Requirement, ...]:
    for one in expressions:
        if one.operator not in OPERATORS:
            raise UnsupportedPodError(f"its node affinity asks for {one.key} {one.operator}")
    return tuple(
        Requirement(one.key, cast(Operator, one.operator), frozenset(one.values))
        for one in expressions
    )
