"""What the groups of a job need, derived from its spec; integers only."""

from __future__ import annotations

from msgspec import Struct

from mlsched.model.affinities import NodeTerm
from mlsched.model.specs import ALL_MEMORY, JobSpec, Toleration

GPU_LAYER = "gpu"
DATA_LAYER = "data"


class GroupNeed(Struct, frozen=True):
    """What one node group needs on the node that it is placed on."""

    milli_cpus: int
    memory_bytes: int
    gpus: int
    gpu_model: str = ""
    """Model, MIG profile, or names joined by ``|``; empty takes any whole GPU."""
    mig: bool = False
    gpu_memory_min_bytes: int = 0
    whole_memory: bool = False
    """All the memory of the node, whatever it is."""
    layer: str = ""
    """Layer of the nodes that will do; empty: any."""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels that the node must have, with their values, in the order of their names."""
    tolerations: tuple[Toleration, ...] = ()
    affinity: tuple[NodeTerm, ...] = ()
    """Terms of which one must hold for the node too; empty: any node."""


def tasks_per_group(spec: JobSpec) -> int:
    """Processes in each node group, the last group perhaps fewer."""
    if spec.tasks:
        return -(-spec.tasks // spec.nodes)
    return spec.tasks_per_node


def world_size(spec: JobSpec) -> int:
    """Processes that are started for one attempt of a job."""
    if spec.launch == "once":
        return 1
    return spec.tasks or spec.nodes * spec.tasks_per_node


def need_of(spec: JobSpec) -> GroupNeed:
    """The need of one node group; all groups of a job need the same.

    Totals (``gpus``, ``tasks``) are divided over the groups and rounded up. Of several ways to say
    one thing the most specific wins: per node, then per task, then in all. Without a layer, jobs
    with GPUs go to layer ``gpu`` and others to layer ``data``.
    """
    per_group = tasks_per_group(spec)
    gpus = spec.gpus_per_node or spec.gpus_per_task * per_group or -(-spec.gpus // spec.nodes)
    if spec.milli_cpus_per_gpu and gpus:
        milli_cpus = spec.milli_cpus_per_gpu * gpus
    else:
        milli_cpus = spec.milli_cpus_per_task * per_group
    whole = spec.memory_per_node == ALL_MEMORY
    memory = 0 if isinstance(spec.memory_per_node, str) else spec.memory_per_node
    memory = memory or spec.memory_per_gpu * gpus or spec.memory_per_cpu * -(-milli_cpus // 1000)
    return GroupNeed(
        milli_cpus=milli_cpus,
        memory_bytes=memory,
        gpus=gpus,
        gpu_model=spec.gpu_model or spec.constraint,
        mig=spec.mig,
        gpu_memory_min_bytes=spec.gpu_memory_min_bytes,
        whole_memory=whole,
        layer=spec.layer or (GPU_LAYER if gpus else DATA_LAYER),
        selector=tuple(sorted(spec.node_selector.items())),
        tolerations=spec.tolerations,
    )
