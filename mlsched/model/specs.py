"""What a user asks for: the spec of an MLJob.

The same document is taken by ``mlsched submit FILE``, by ``kubectl apply`` and by the Python API:
``apiVersion: mlsched.io/v1alpha1``, ``kind: MLJob``, ``metadata``, ``spec``. Field names in a
document are the camel-case form of the names here. Quantities in a document may be text
(``64Gi``, ``2h``); here they are integers.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

API_VERSION = "mlsched.io/v1alpha1"
KIND = "MLJob"

PRIORITIES = {"low": -100, "normal": 0, "high": 100}
PRIORITY_MAX = 1_000_000
ALL_MEMORY = "all"
"""``memoryPerNode: all`` asks for all the memory of a node, as Slurm's ``--mem=0``."""


class Dependency(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Wait for another job. ``condition``: ok, fail, or any end."""

    job: str
    condition: Literal["ok", "any", "fail"] = "ok"


class StopSignal(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An early notice before the time limit: which signal, how long before, to whom.

    ``to``: ``steps`` signals every process of the job, ``shell`` only the process started first
    (Slurm's ``B:`` prefix).
    """

    name: str = "TERM"
    before_end_seconds: int = 60
    to: Literal["steps", "shell"] = "steps"


class ArraySpec(
    Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """Many jobs of one spec, each with its own index in ``MLSCHED_ARRAY_INDEX``."""

    indices: tuple[int, ...]
    """Every index, ascending and once each; never negative."""
    max_parallel: int = 0
    """How many may run at once; 0 means no bound."""


class Toleration(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Leave to run on nodes with a matching taint, as Kubernetes has it.

    An empty key with ``Exists`` matches every taint; an empty effect matches every effect.
    """

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class JobSpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Everything that decides what is run and what it needs.

    A job is a gang of ``nodes`` groups of ``tasks_per_node`` processes; all start or none. On one
    machine the groups share the machine. Resource counts say what one group or one task needs.
    """

    command: tuple[str, ...] = ()
    """Argument vector; no shell takes part. Empty when ``script`` is given."""
    script: str = ""
    """Text of a script that is run by its own ``#!`` line; ``command`` then holds its arguments."""
    env: dict[str, str] = {}
    env_secrets: tuple[str, ...] = ()
    """Secrets on Kubernetes whose entries become variables; on one machine they are not used."""
    workdir: str = ""
    output: str = ""
    """Also write the output to this file, with Slurm's patterns (%j, %x, %a); optional."""

    nodes: int = 1
    tasks_per_node: int = 1
    tasks: int = 0
    """Tasks in all; 0 means nodes x tasks_per_node."""
    launch: Literal["each", "once"] = "each"
    """``each``: start the command once a task. ``once``: once for the job, as sbatch does."""
    gang_token: bool = False
    """Give the processes of an attempt a secret that they share: ``MLSCHED_GANG_TOKEN``."""

    milli_cpus_per_task: int = 1000
    milli_cpus_per_gpu: int = 0
    memory_per_node: int | Literal["all"] = 0
    """Bytes; 0 means no request and no bound."""
    memory_per_cpu: int = 0
    memory_per_gpu: int = 0
    gpus_per_node: int = 0
    gpus: int = 0
    """GPUs of the whole job (Slurm's ``--gpus``); divided over the nodes."""
    gpus_per_task: int = 0
    gpu_model: str = ""
    """A model such as ``H100`` or a MIG profile such as ``1g.10gb``; empty takes any whole GPU."""
    mig: bool = False
    """True when ``gpu_model`` names a MIG profile."""
    gpu_memory_min_bytes: int = 0
    constraint: str = ""
    """Slurm's ``--constraint`` on GPU models: names joined by ``|``; empty takes any."""

    image: str = ""
    """Container image on Kubernetes; on one machine it is not used."""
    layer: str = ""
    """Layer to run on; empty: ``gpu`` for jobs with GPUs, ``data`` for others."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have, each with this value."""
    tolerations: tuple[Toleration, ...] = ()

    queue: str = "default"
    queues: tuple[str, ...] = ()
    """Other queues that would do, in order of preference."""
    priority: int = 0
    time_limit_seconds: int = 0
    """0 means no limit."""
    grace_seconds: int = 30
    """Time between SIGTERM and SIGKILL."""
    signal: StopSignal | None = None
    array: ArraySpec | None = None
    after: tuple[Dependency, ...] = ()
    retries: int = 0
    requeue: bool = False
    """Slurm's ``--requeue``: run again when the machine was lost."""
    labels: dict[str, str] = {}


class Metadata(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Name and labels of a document, as Kubernetes has them."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
