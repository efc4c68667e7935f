"""A node object and the pods of others on it, as the node that placement sees. Pure.

Where a device plugin offers GPUs, which devices a pod gets is the kubelet's choice: GPUs are slots
without a name of their own, and what pods of others hold is a number of slots that are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from mlsched.adapters.kubernetes.objects import NodeObject, parse_milli, parse_units
from mlsched.adapters.kubernetes.requests import Amounts, is_gpu_resource, profile_of
from mlsched.model.nodes import Device, Node, Taint
from mlsched.units import MIB

LAYER_LABEL = "mlsched.io/layer"
PRODUCT_LABEL = "nvidia.com/gpu.product"
MEMORY_LABEL = "nvidia.com/gpu.memory"
"""MiB of one GPU. Source: NVIDIA's GPU feature discovery."""

NOT_READY = "its kubelet does not report that it is ready"


class LayerRule(Struct, frozen=True):
    """Nodes with a label belong to a layer; an empty value takes any value of the label."""

    label: str
    value: str
    layer: str

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is meant."""
        found = labels.get(self.label)
        return found is not None and self.value in ("", found)


def layer_of(node: NodeObject, rules: Sequence[LayerRule]) -> str:
    """Its own label first, then the first rule that takes it, then ``gpu`` for nodes with GPUs."""
    labels = node.metadata.labels
    if LAYER_LABEL in labels:
        return labels[LAYER_LABEL]
    for rule in rules:
        if rule.takes(labels):
            return rule.layer
    return "gpu" if any(is_gpu_resource(name) for name in node.status.capacity) else ""


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
) -> Node:
    """The node as placement sees it: allocatable, less what pods of others take.

    Args:
        others: What pods take that the controller did not place, by resource, ``pods`` among them.
        is_held: Whether one of the controller's jobs holds a slot: it stays whatever others take.
        rules: Which labels make which layer.

    Raises:
        ValueError: a quantity is none.
    """
    name = node.metadata.name
    allocatable = node.status.allocatable
    devices: list[Device] = []
    for resource in sorted(allocatable):
        if is_gpu_resource(resource):
            total = parse_units(allocatable[resource])
            devices += _slots(node, resource, total, others.get(resource, 0), is_held)
    pods = parse_units(allocatable.get("pods", 110)) - others.get("pods", 0)
    return Node(
        name=name,
        milli_cpus=parse_milli(allocatable.get("cpu", 0)) - others.get("cpu", 0),
        memory_bytes=parse_units(allocatable.get("memory", 0)) - others.get("memory", 0),
        devices=tuple(devices),
        layer=layer_of(node, rules),
        schedulable=is_ready(node) and not node.spec.unschedulable,
        labels=node.metadata.labels,
        taints=tuple(Taint(t.key, t.value, t.effect) for t in node.spec.taints),
        pods_max=max(1, pods),
    )


def _slots(
    node: NodeObject, resource: str, total: int, taken: int, is_held: Callable[[str], bool]
) -> list[Device]:
    """So many slots as others leave; those that are held come first and all stay."""
    profile = profile_of(resource)
    stem = f"mig-{profile}" if profile else "gpu"
    names = [f"{node.metadata.name}/{stem}-{index}" for index in range(total)]
    held = [slot for slot in names if is_held(slot)]
    free = [slot for slot in names if not is_held(slot)]
    offered = {*held, *free[: max(0, total - taken - len(held))]}
    labels = node.metadata.labels
    model = labels.get(PRODUCT_LABEL, "GPU").replace("-", " ")
    memory = labels.get(MEMORY_LABEL, "")
    size_bytes = int(memory) * MIB if memory.isdecimal() and not profile else 0
    return [Device(slot, model, size_bytes, profile) for slot in names if slot in offered]
