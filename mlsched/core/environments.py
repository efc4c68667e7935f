"""What the processes of a job find in their environment. Pure: values in, values out.

The user's environment stays as it is but for the names below: what an outer job, another scheduler
or an old shell left there would be believed by training frameworks.
Source: torchrun's and Slurm's documentation of the variables that they set; the CUDA programming
guide for ``CUDA_VISIBLE_DEVICES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from mlsched.model.jobs import GroupPlacement, Job
from mlsched.model.resources import tasks_per_group, world_size

LOOPBACK = "127.0.0.1"

OWN_NAMES = frozenset(
    {
        *("JOB_ID", "NAME", "ATTEMPT", "ARRAY_INDEX", "NODE_RANK", "NUM_NODES", "NODE_IPS"),
        *("GPUS_PER_NODE", "CHECKPOINT_DIR", "END_TIME", "GRACE_SECONDS", "PROGRESS_FILE"),
        *("METRICS_FILE", "ATTEMPT_DIR", "GANG_TOKEN"),
    }
)
"""Ours, each after ``MLSCHED_``; other names of that prefix are the user's settings."""

RANK_NAMES = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
        *("GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
        *("MASTER_ADDR", "MASTER_PORT"),
    }
)
DEVICE_NAMES = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"})
STALE_PREFIXES = ("PET_", "SLURM_", "SLURMD_", "TORCHELASTIC_")

GANG_TOKEN_VARIABLE = "MLSCHED_GANG_TOKEN"
"""What holds the secret that the processes of one attempt share, and nobody else knows."""

GANG_TOKEN_BYTES = 32
"""Random bytes of it; the text is twice as long."""

TORCHRUN_MODULES = frozenset({"torch.distributed.run", "torch.distributed.launch"})


class Process(Struct, frozen=True):
    """One process that is to be started: which one of the job, of which node group."""

    rank: int
    group: int
    local_rank: int
    local_size: int


class LaunchContext(Struct, frozen=True):
    """What is decided at launch, beside the job itself."""

    attempt_dir: str
    checkpoint_dir: str
    master_port: int
    now_s: int
    """Wall clock, seconds since 1970: only for the end time that the job is told."""
    master_addr: str = LOOPBACK
    """Where the ranks meet: the node of group 0."""
    node_addresses: tuple[str, ...] = ()
    """Names or addresses of the node groups; empty where all share one machine."""
    chooses_devices: bool = True
    """False where something else tells each process its devices: a device plugin."""
    gang_token: str = ""
    """The secret of this attempt's processes; empty where they get it in another way, or none."""


def is_torchrun(command: Sequence[str]) -> bool:
    """Whether a command is torchrun, which starts the processes of a node group by itself."""
    if not command:
        return False
    name = command[0].rpartition("/")[2]
    if name == "torchrun":
        return True
    if not name.startswith("python"):
        return False
    options = list(command[1:])
    for index, option in enumerate(options):
        if option == "-m":
            return index + 1 < len(options) and options[index + 1] in TORCHRUN_MODULES
        if not option.startswith("-"):
            return False
    return False


def plan_processes(job: Job) -> list[Process]:
    """The processes of one attempt, in order of rank."""
    spec = job.spec
    if spec.launch == "once":
        return [Process(0, 0, 0, 1)]
    if is_torchrun(spec.command) and not spec.script:
        return [Process(group, group, 0, 1) for group in range(spec.nodes)]
    per_group = tasks_per_group(spec)
    size = world_size(spec)
    return [
        Process(rank, rank // per_group, rank % per_group, min(per_group, size - first))
        for rank in range(size)
        for first in [rank // per_group * per_group]
    ]


def build_environment(
    job: Job, process: Process, context: LaunchContext, size: int
) -> dict[str, str]:
    """The whole environment of one process of ``size`` processes."""
    env = clean_environment(job.spec.env)
    devices = _devices(job, process)
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if context.chooses_devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    env |= _own_variables(job, process, context, len(devices))
    if is_torchrun(job.spec.command) and not job.spec.script:
        env |= _torchrun_variables(job, process, context, len(devices))
    elif size > 1:
        env |= _rank_variables(process, context, size)
    return env


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what tells a process its rank, its devices or its job."""
    return {name: value for name, value in env.items() if not _is_stale(name)}


def _is_stale(name: str) -> bool:
    if name.startswith("MLSCHED_"):
        return name.removeprefix("MLSCHED_") in OWN_NAMES
    return name in RANK_NAMES or name in DEVICE_NAMES or name.startswith(STALE_PREFIXES)


def _devices(job: Job, process: Process) -> tuple[str, ...]:
    """The devices of the process' node group; of all groups for a job that is started once."""
    if job.spec.launch == "once":
        return tuple(uuid for group in job.placements for uuid in group.devices)
    return _placement(job, process.group).devices


def _placement(job: Job, group: int) -> GroupPlacement:
    return job.placements[min(group, len(job.placements) - 1)]


def _own_variables(
    job: Job, process: Process, context: LaunchContext, device_count: int
) -> dict[str, str]:
    spec = job.spec
    found = {
        "JOB_ID": job.id,
        "NAME": job.name,
        "ATTEMPT": str(job.attempt),
        "NODE_RANK": str(process.group),
        "NUM_NODES": str(spec.nodes),
        "NODE_IPS": "\n".join(context.node_addresses or [LOOPBACK] * spec.nodes),
        "GPUS_PER_NODE": str(device_count),
        "CHECKPOINT_DIR": context.checkpoint_dir,
        "GRACE_SECONDS": str(spec.grace_seconds),
        "PROGRESS_FILE": f"{context.attempt_dir}/progress.json",
        "METRICS_FILE": f"{context.attempt_dir}/metrics.json",
        "ATTEMPT_DIR": context.attempt_dir,
    }
    if job.array is not None:
        found["ARRAY_INDEX"] = str(job.array.index)
    if context.gang_token:
        found["GANG_TOKEN"] = context.gang_token
    if spec.time_limit_seconds:
        found["END_TIME"] = str(context.now_s + spec.time_limit_seconds)
    return {f"MLSCHED_{name}": value for name, value in found.items()}


def _rank_variables(process: Process, context: LaunchContext, size: int) -> dict[str, str]:
    """What torchrun would set for this process."""
    return {
        "RANK": str(process.rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(process.local_rank),
        "LOCAL_WORLD_SIZE": str(process.local_size),
        "GROUP_RANK": str(process.group),
        "NODE_RANK": str(process.group),
        "ROLE_RANK": str(process.rank),
        "ROLE_WORLD_SIZE": str(size),
        "MASTER_ADDR": context.master_addr,
        "MASTER_PORT": str(context.master_port),
    }


def _torchrun_variables(
    job: Job, process: Process, context: LaunchContext, device_count: int
) -> dict[str, str]:
    """Defaults of torchrun's own options; what the command line says wins."""
    per_group = tasks_per_group(job.spec)
    return {
        "PET_NNODES": "1" if job.spec.launch == "once" else str(job.spec.nodes),
        "PET_NPROC_PER_NODE": str(per_group if per_group > 1 else max(1, device_count)),
        "PET_NODE_RANK": str(process.group),
        "PET_MASTER_ADDR": context.master_addr,
        "PET_MASTER_PORT": str(context.master_port),
        "PET_RDZV_ID": f"{job.id}-{job.attempt}",
    }
