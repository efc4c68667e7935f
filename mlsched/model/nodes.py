"""Nodes and the devices on them, as placement sees them.

A node is a machine with CPUs, memory and devices. A device is what one job may hold alone: a whole
GPU, or one MIG instance of a partitioned GPU. Its identity is the UUID; the index is never a key.
"""

from __future__ import annotations

from msgspec import Struct

NO_PODS = -1
"""The bound of a node that takes no group more."""


class Device(Struct, frozen=True):
    """One GPU or MIG instance that can be given to a job."""

    uuid: str
    model: str
    memory_bytes: int
    profile: str = ""
    """MIG profile such as ``1g.10gb``; empty for a whole GPU."""
    parent_uuid: str = ""
    """UUID of the GPU that a MIG instance is cut from; empty for a whole GPU."""
    healthy: bool = True
    """False keeps new jobs away. Unknown health is never healthy."""
    health_reason: str = ""

    @property
    def is_mig(self) -> bool:
        """True for an instance of a partitioned GPU."""
        return bool(self.profile)


class Taint(Struct, frozen=True):
    """A mark that keeps jobs off a node unless they tolerate it, as Kubernetes has it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"
    """``NoSchedule``, ``NoExecute``, or ``PreferNoSchedule``: the node is the last choice."""

    def __str__(self) -> str:
        """``dedicated=infra:NoSchedule``, as kubectl writes it."""
        value = f"={self.value}" if self.value else ""
        return f"{self.key}{value}:{self.effect}"


class Node(Struct, frozen=True):
    """One machine: what it has in all, whether used or not."""

    name: str
    milli_cpus: int
    memory_bytes: int
    devices: tuple[Device, ...] = ()
    layer: str = "local"
    """Which layer of the platform the node belongs to: gpu, data, storage, ..., or local.

    A node of layer ``local`` or of none takes jobs of every layer.
    """
    schedulable: bool = True
    gpu_note: str = ""
    """Why the node has no usable inventory, when it has none: one line for people."""
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    pods_max: int = 0
    """Node groups that it can run at once, pods of others taken off; 0: no bound; NO_PODS: none."""
