"""A node object and the pods of others on it, as the node that placement sees. Pure.

Where a device plugin offers GPUs, which devices a pod gets is the kubelet's choice: GPUs are slots
without a name of their own, and what pods of others hold is a number of slots that are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mlsched.adapters.kubernetes.objects import NodeObject, parse_milli, parse_units
from mlsched.adapters.kubernetes.requests import Amounts, is_gpu_resource, profile_of
from mlsched.model.nodes import NO_PODS, Device, Node, Taint
from mlsched.units import MIB

LAYER_LABEL = "mlsched.io/layer"
PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
"""MiB of one GPU. Source: NVIDIA's GPU feature discovery."""

NOT_READY = "its kubelet does not report that it is ready"


class NodeGpus(Struct, frozen=True):
    """What is known of the GPUs of a node beside its Node object."""

    known: tuple[Device, ...] = ()
    """As its agent found them; empty while there is none, or it is not believed."""
    note: str = ""
    """What is wrong with that, for people."""
    published: tuple[Device, ...] | None = None
    """By DRA drivers; None where a device plugin offers the GPUs."""
    taken: frozenset[str] = frozenset()
    """Names of those published that claims hold."""


class LayerRule(Struct, frozen=True):
    """Nodes with a label belong to a layer; an empty value takes any value of the label."""

    label: str
    value: str
    layer: str

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is meant."""
        found = labels.get(self.label)
        return found is not None and self.value in ("", found)


def layer_of(
    node: NodeObject, rules: Sequence[LayerRule] = (), *, has_devices: bool = False
) -> str:
    """Its own label first, then the first rule that takes it, then ``gpu`` for nodes with GPUs.

    Args:
        has_devices: Whether a DRA driver publishes GPUs of it.
    """
    labels = node.metadata.labels
    if LAYER_LABEL in labels:
        return labels[LAYER_LABEL]
    for rule in rules:
        if rule.takes(labels):
            return rule.layer
    is_gpu = has_devices or any(is_gpu_resource(name) for name in node.status.capacity)
    return "gpu" if is_gpu else ""


def is_ready(node: NodeObject) -> bool:
    """Whether its kubelet says so."""
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def is_out_of_service(node: NodeObject) -> bool:
    """Whether a person declared that nothing runs on it any more.

    Source: non-graceful node shutdown, the taint node.kubernetes.io/out-of-service.
    """
    return any(t.key == "node.kubernetes.io/out-of-service" for t in node.spec.taints)


def build_node(
    node: NodeObject,
    others: Amounts,
    is_held: Callable[[str], bool],
    rules: Sequence[LayerRule] = (),
    gpus: NodeGpus | None = None,
) -> Node:
    """The node as placement sees it: allocatable, less what pods of others take.

    Args:
        others: What pods take that the controller did not place, by resource, ``pods`` among them.
        is_held: Whether one of the controller's jobs holds a slot: it stays whatever others take.
        rules: Which labels make which layer.
        gpus: What else is known of its GPUs.

    Raises:
        ValueError: a quantity is none.
    """
    name = node.metadata.name
    allocatable = node.status.allocatable
    gpus = gpus or NodeGpus()
    if gpus.published is not None:
        devices = [d for d in gpus.published if is_held(d.uuid) or d.uuid not in gpus.taken]
    else:
        devices = _offered_by_plugins(node, others, is_held, gpus.known)
    pods = parse_units(allocatable.get("pods", 110)) - others.get("pods", 0)
    return Node(
        name=name,
        milli_cpus=parse_milli(allocatable.get("cpu", 0)) - others.get("cpu", 0),
        memory_bytes=parse_units(allocatable.get("memory", 0)) - others.get("memory", 0),
        devices=tuple(devices),
        layer=layer_of(node, rules, has_devices=gpus.published is not None),
        schedulable=is_ready(node) and not node.spec.unschedulable,
        gpu_note=gpus.note,
        labels=node.metadata.labels,
        taints=tuple(Taint(t.key, t.value, t.effect) for t in node.spec.taints),
        pods_max=max(0, pods) or NO_PODS,
    )


def _offered_by_plugins(
    node: NodeObject, others: Amounts, is_held: Callable[[str], bool], known: Sequence[Device]
) -> list[Device]:
    devices: list[Device] = []
    allocatable = node.status.allocatable
    for resource in sorted(allocatable):
        if is_gpu_resource(resource):
            total = parse_units(allocatable[resource])
            alike = _of_resource(known, resource)
            slots = _slots(node, resource, total, others.get(resource, 0), is_held)
            described = [_describe(node, slot, resource, alike) for slot in slots]
            devices += _mark_unhealthy(described, total, alike, is_held)
    return devices


def _of_resource(known: Sequence[Device], resource: str) -> list[Device]:
    """What an agent found of a resource; instances stand for ``nvidia.com/gpu`` where all are MIG.

    Source: the strategies ``mixed`` and ``single`` of NVIDIA's device plugin.
    """
    profile = profile_of(resource)
    alike = [one for one in known if one.profile == profile]
    return alike if alike or profile else list(known)


def _slots(
    node: NodeObject, resource: str, total: int, taken: int, is_held: Callable[[str], bool]
) -> list[str]:
    """So many slots as others leave; those that are held come first and all stay."""
    profile = profile_of(resource)
    stem = f"mig-{profile}" if profile else "gpu"
    names = [f"{node.metadata.name}/{stem}-{index}" for index in range(total)]
    held = [slot for slot in names if is_held(slot)]
    free = [slot for slot in names if not is_held(slot)]
    offered = {*held, *free[: max(0, total - taken - len(held))]}
    return [slot for slot in names if slot in offered]


def _describe(node: NodeObject, slot: str, resource: str, alike: Sequence[Device]) -> Device:
    """A slot with model and memory by the labels of GPU feature discovery, else by the agent."""
    profile = profile_of(resource)
    labels = node.metadata.labels
    found = alike[0] if alike else Device("", "GPU", 0)
    model = labels.get(PRODUCT_LABEL, "").replace("-", " ") or found.model
    memory = labels.get(MEMORY_LABEL, "")
    by_label = int(memory) * MIB if memory.isdecimal() and not profile else 0
    return Device(slot, model, by_label or found.memory_bytes, profile)


def _mark_unhealthy(
    slots: list[Device], total: int, alike: Sequence[Device], is_held: Callable[[str], bool]
) -> list[Device]:
    """As many free slots as there are GPUs that the plugin offers and the agent finds broken.

    Which GPU a pod will get is not known, so that a broken one that is held keeps a free slot back
    too. What the plugin took out of allocatable itself is not taken out again. A plugin that lets
    pods share GPUs offers each several times.
    """
    broken = [one for one in alike if not one.healthy]
    shares = -(-total // len(alike)) if alike else 1
    count = total - shares * (len(alike) - len(broken)) if broken else 0
    if count <= 0:
        return slots
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    reason = f"{broken[0].uuid[:12]}{more}: {broken[0].health_reason}"
    free = [one.uuid for one in slots if not is_held(one.uuid)]
    marked = set(free[-count:])
    return [
        replace(one, healthy=False, health_reason=reason) if one.uuid in marked else one
        for one in slots
    ]
