"""A placed job becomes pods: one a node group, one container a task. Pure: values in, JSON out.

Pods are created already placed, under names that only this attempt has, owned by their MLJob, and
within the restricted Pod Security Standard. What the placement of the whole gang is stands in each
of them, so that any one tells it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from mlsched.core.environments import (
    GANG_TOKEN_VARIABLE,
    LOOPBACK,
    LaunchContext,
    Process,
    build_environment,
    plan_processes,
)
from mlsched.errors import SpecError
from mlsched.model.jobs import GroupPlacement, Job
from mlsched.model.resources import need_of
from mlsched.model.specs import API_VERSION, KIND
from mlsched.specs.records import KEY_ANNOTATION, USER_ANNOTATION
from mlsched.specs.sources import FILE_ANNOTATION
from mlsched.specs.wishes import CANCEL_ANNOTATION, CANCEL_ELEMENTS_ANNOTATION

MANAGED_BY = "mlsched"
JOB_LABEL = "mlsched.io/job"
UID_LABEL = "mlsched.io/job-uid"
ATTEMPT_LABEL = "mlsched.io/attempt"
GROUP_LABEL = "mlsched.io/group"
INDEX_LABEL = "mlsched.io/index"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
SCRIPT_ANNOTATION = "mlsched.io/script"

NOT_PASSED_ON = frozenset(
    {
        *(USER_ANNOTATION, KEY_ANNOTATION, FILE_ANNOTATION),
        *(CANCEL_ANNOTATION, CANCEL_ELEMENTS_ANNOTATION),
    }
)

MASTER_PORT = 29500
"""Each pod has an address of its own, so that one port does. Source: torchrun's default."""

TOKEN_KEY = "token"
"""Under which a gang's Secret holds its token."""

ATTEMPT_DIR = "/mlsched/attempt"
SCRIPT_DIR = "/mlsched/script"
CHECKPOINT_DIR = f"{ATTEMPT_DIR}/checkpoints"
USER_ID = 1000
"""Whom containers run as: the restricted Pod Security Standard wants somebody, and not root."""

Json = dict[str, Any]


class Owner(Struct, frozen=True):
    """The MLJob that pods belong to."""

    namespace: str
    name: str
    uid: str
    annotations: dict[str, str] = {}
    """For its pods too: what meshes and others want to be told."""


def passed_on(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of an MLJob that are meant for its pods: all but those of tools and ours."""
    return {
        name: value
        for name, value in annotations.items()
        if name not in NOT_PASSED_ON and not name.startswith("kubectl.kubernetes.io/")
    }


def stem_of(job: Job, owner: Owner) -> str:
    """``NAME``, or ``NAME.INDEX`` of an element: no name of a job has a dot."""
    return f"{owner.name}.{job.array.index}" if job.array else owner.name


def pod_name(job: Job, owner: Owner, group: int) -> str:
    """``JOB-ATTEMPT-GROUP``: the same whoever creates it, and only for this attempt."""
    return f"{stem_of(job, owner)}-{job.attempt}-{group}"


def service_name(job: Job, owner: Owner) -> str:
    """Of the gang's headless service: a DNS label that begins with a letter."""
    text = f"{owner.uid}/{stem_of(job, owner)}/{job.attempt}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    first = owner.name if owner.name[:1].isalpha() else f"j{owner.name}"
    return f"{first[:48].rstrip('-')}-{digest}"


def host_name(group: int) -> str:
    """What a pod of a gang is called inside its service."""
    return f"node-{group}"


def node_address(job: Job, owner: Owner, group: int) -> str:
    """Where the other pods of a gang reach a group."""
    return f"{host_name(group)}.{service_name(job, owner)}.{owner.namespace}.svc"


def is_gang(job: Job) -> bool:
    """Whether an attempt has several pods, which must find each other."""
    return len(job.placements) > 1


def build_service(job: Job, owner: Owner) -> Json:
    """The headless service by which the pods of a gang find each other before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(job, owner),
            "namespace": owner.namespace,
            "labels": _labels(job, owner),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {
                UID_LABEL: owner.uid,
                ATTEMPT_LABEL: str(job.attempt),
                **({INDEX_LABEL: str(job.array.index)} if job.array else {}),
            },
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }


def build_secret(job: Job, owner: Owner, token: str) -> Json:
    """The Secret with the token of an attempt, under the name of its service.

    That name comes from the MLJob's uid, so that one that exists is of an earlier try.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": service_name(job, owner),
            "namespace": owner.namespace,
            "labels": _labels(job, owner),
            "ownerReferences": [owner_reference(owner)],
        },
        "immutable": True,
        "data": {TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }


def build_pod(job: Job, owner: Owner, group: int, now_s: int, image: str = "") -> Json:
    """The pod of one node group, created already placed.

    Args:
        now_s: Wall clock, for the end time that the job is told.
        image: For jobs that name none.

    Raises:
        SpecError: the job cannot be run in containers as it is.
    """
    processes = [p for p in plan_processes(job) if p.group == group]
    check_runnable(job, image)
    placement = job.placements[group]
    context = LaunchContext(
        attempt_dir=ATTEMPT_DIR,
        checkpoint_dir=CHECKPOINT_DIR,
        master_port=MASTER_PORT,
        now_s=now_s,
        master_addr=node_address(job, owner, 0) if is_gang(job) else LOOPBACK,
        node_addresses=tuple(node_address(job, owner, g) for g in range(len(job.placements)))
        if is_gang(job)
        else (),
        chooses_devices=False,
    )
    containers = [
        _container(job, owner, process, context, _share(job, placement, len(processes)), image)
        for process in processes
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(job, owner, group),
        "spec": _pod_spec(job, owner, group, containers),
    }


def check_runnable(job: Job, image: str = "") -> None:
    """Refuse what a container runtime cannot do.

    Raises:
        SpecError: with what to change.
    """
    spec = job.spec
    if not (spec.image or image):
        raise SpecError("no image: a job on Kubernetes names the container image it runs in.",
                        "Set spec.image, or --image.")  # fmt: skip
    if spec.launch == "once" and spec.nodes > 1:
        raise SpecError(
            f"launch: once on {spec.nodes} nodes would leave all pods but the first idle.",
            "Use launch: each, which starts the command on every node.",
        )
    tasks = max(1, len([p for p in plan_processes(job) if p.group == 0]))
    gpus = need_of(spec).gpus
    if gpus % tasks:
        raise SpecError(
            f"{gpus} GPUs of a node cannot be divided over {tasks} tasks: each task is a "
            "container, and a container has GPUs of its own.",
            "Ask for as many GPUs as tasks, a multiple of them, or none.",
        )


def _labels(job: Job, owner: Owner) -> dict[str, str]:
    labels = {
        MANAGED_LABEL: MANAGED_BY,
        JOB_LABEL: owner.name,
        UID_LABEL: owner.uid,
        ATTEMPT_LABEL: str(job.attempt),
    }
    return labels | ({INDEX_LABEL: str(job.array.index)} if job.array else {})


def owner_reference(owner: Owner) -> Json:
    """How an object says that it belongs to an MLJob, and goes with it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _metadata(job: Job, owner: Owner, group: int) -> Json:
    annotations = {SCRIPT_ANNOTATION: job.spec.script} if job.spec.script else {}
    return {
        "name": pod_name(job, owner, group),
        "namespace": owner.namespace,
        "labels": {**job.spec.labels, **_labels(job, owner), GROUP_LABEL: str(group)},
        "annotations": {
            **owner.annotations,
            **annotations,
            "kubectl.kubernetes.io/default-container": _container_name(job, group),
        },
        "ownerReferences": [owner_reference(owner)],
    }


def _container_name(job: Job, group: int) -> str:
    first = next((p.rank for p in plan_processes(job) if p.group == group), 0)
    return f"rank-{first}"


def _pod_spec(job: Job, owner: Owner, group: int, containers: list[Json]) -> Json:
    spec: Json = {
        "nodeName": job.placements[group].node,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.spec.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Else the job is process 1, which SIGTERM does not end and which must reap what it forks.
        "shareProcessNamespace": True,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": [{"name": "attempt", "emptyDir": {}}, *_script_volume(job)],
        "tolerations": _tolerations(job),
    }
    if job.spec.time_limit_seconds:
        spec["activeDeadlineSeconds"] = job.spec.time_limit_seconds
    if is_gang(job):
        spec |= {"hostname": host_name(group), "subdomain": service_name(job, owner)}
    return spec


def _tolerations(job: Job) -> list[Json]:
    return [
        {
            key: value
            for key, value in (
                ("key", one.key),
                ("operator", one.operator),
                ("value", one.value),
                ("effect", one.effect),
            )
            if value
        }
        for one in job.spec.tolerations
    ]


def _script_volume(job: Job) -> list[Json]:
    """The script as a file, from the pod's own annotation: no object of its own is written."""
    if not job.spec.script:
        return []
    path = f"metadata.annotations['{SCRIPT_ANNOTATION}']"
    item = {"path": "script", "mode": 0o555, "fieldRef": {"fieldPath": path}}
    return [{"name": "script", "downwardAPI": {"items": [item]}}]


class _Share(Struct, frozen=True):
    """What one container gets of its group."""

    milli_cpus: int
    memory_bytes: int
    gpus: int
    resource: str


def _share(job: Job, placement: GroupPlacement, containers: int) -> _Share:
    resource = "nvidia.com/gpu"
    if job.spec.mig:
        resource = f"nvidia.com/mig-{job.spec.gpu_model}"
    return _Share(
        placement.milli_cpus // containers,
        placement.memory_bytes // containers,
        len(placement.devices) // containers,
        resource,
    )


def _container(
    job: Job, owner: Owner, process: Process, context: LaunchContext, share: _Share, image: str
) -> Json:
    spec = job.spec
    size = len(plan_processes(job))
    env = build_environment(job, process, context, size)
    env |= {"MLSCHED_JOB_ID": owner.uid, "HOME": spec.env.get("HOME", ATTEMPT_DIR)}
    mounts = [{"name": "attempt", "mountPath": ATTEMPT_DIR}]
    command = list(spec.command)
    if spec.script:
        mounts.append({"name": "script", "mountPath": SCRIPT_DIR})
        command = [f"{SCRIPT_DIR}/script", *command]
    container: Json = {
        "name": f"rank-{process.rank}",
        "image": spec.image or image,
        "command": [_literal(word) for word in command],
        "env": [
            *({"name": name, "value": _literal(env[name])} for name in sorted(env)),
            *_token_variable(job, owner),
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in spec.env_secrets],
        "resources": _resources(share),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if spec.workdir.startswith("/"):
        container["workingDir"] = spec.workdir
    return container


def _token_variable(job: Job, owner: Owner) -> list[Json]:
    """The token by reference: its value stands in no pod."""
    if not job.spec.gang_token:
        return []
    key = {"name": service_name(job, owner), "key": TOKEN_KEY}
    return [{"name": GANG_TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": key}}]


def _literal(text: str) -> str:
    """The kubelet expands ``$(NAME)`` and takes two dollar signs for one: double them all.

    Source: the expansion of Kubernetes' third_party/forked/golang/expansion.
    """
    return text.replace("$", "$$")


def _resources(share: _Share) -> Json:
    requests: Json = {"cpu": f"{share.milli_cpus}m"}
    limits: Json = {}
    if share.memory_bytes:
        requests["memory"] = limits["memory"] = str(share.memory_bytes)
    if share.gpus:
        limits[share.resource] = str(share.gpus)
    return {"requests": requests, "limits": limits}
