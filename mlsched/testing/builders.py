"""Short ways to write down nodes, devices and jobs in a test."""

from __future__ import annotations

from typing import Any

from mlsched.model.jobs import Job
from mlsched.model.nodes import Device, Node
from mlsched.model.specs import JobSpec
from mlsched.units import GIB

H100 = "NVIDIA H100 80GB HBM3"


def device(uuid: str, model: str = H100, memory_gib: int = 80, **more: Any) -> Device:
    """One device; ``profile`` makes it a MIG instance."""
    return Device(uuid, model, memory_gib * GIB, **more)


def node(
    name: str = "n1", gpus: int = 0, cpus: int = 16, memory_gib: int = 128, **more: Any
) -> Node:
    """A node with equal GPUs, named ``GPU-NODE-0`` and so on."""
    devices = tuple(device(f"GPU-{name}-{index}") for index in range(gpus))
    return Node(name, cpus * 1000, memory_gib * GIB, devices, **more)


def spec(gpus: int = 0, cpus: float = 1, **more: Any) -> JobSpec:
    """A spec that runs ``true``; ``gpus`` for each node group."""
    return JobSpec(
        command=("true",), gpus_per_node=gpus, milli_cpus_per_task=int(cpus * 1000), **more
    )


def job(name: str, seq: int, gpus: int = 0, cpus: float = 1, **more: Any) -> Job:
    """A pending job whose id is its name."""
    return Job(name, name, seq, spec(gpus, cpus, **more), 0)
