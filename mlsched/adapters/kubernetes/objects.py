"""The parts of Kubernetes' objects that mlsched reads, as typed values.

Only the fields that are used are named: msgspec skips all others, which makes decoding a pod event
forty times as fast as building the models of the ``kubernetes`` package.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from msgspec import Raw, Struct, field
from msgspec.json import Decoder

from mlsched.model.specs import API_VERSION
from mlsched.specs.records import Identity
from mlsched.specs.statuses import JobStatus

Quantities = dict[str, str | int | float]

PLURAL = "mljobs"
GROUP_PATH = f"/apis/{API_VERSION}"
POD_GROUPS = "/apis/scheduling.k8s.io/v1beta1/podgroups"


class OwnerReference(Struct, rename="camel"):
    """Who owns an object."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Metadata(Struct, rename="camel"):
    """Names, versions and labels of one object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = "0"
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    owner_references: list[OwnerReference] = field(default_factory=list)

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``, or the name where there is no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def version(self) -> int:
        """The resource version as a number.

        Source: KEP-5504, which lets clients compare versions of one resource (1.35).
        """
        return int(self.resource_version) if self.resource_version.isdecimal() else 0


class Resources(Struct):
    """Requests and limits of a container or a pod."""

    requests: Quantities = field(default_factory=dict)
    limits: Quantities = field(default_factory=dict)


class Container(Struct, rename="camel"):
    """One container of a pod's spec."""

    name: str = ""
    resources: Resources = field(default_factory=Resources)
    restart_policy: str = ""


class TolerationObject(Struct):
    """A toleration as a pod has it, of a newer Kubernetes too: the pod counts all the same."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class SchedulingGroup(Struct, rename="camel"):
    """Which PodGroup a pod belongs to."""

    pod_group_name: str = ""


class Expression(Struct):
    """One expression of a node selector term."""

    key: str
    operator: str
    values: list[str] = field(default_factory=list)


class SelectorTerm(Struct, rename="camel"):
    """Expressions that must all hold."""

    match_expressions: list[Expression] = field(default_factory=list)
    match_fields: list[Expression] = field(default_factory=list)


class NodeSelector(Struct, rename="camel"):
    """Terms of which one must hold."""

    node_selector_terms: list[SelectorTerm] = field(default_factory=list)


class NodeAffinity(Struct):
    """What a pod requires of its node."""

    required: NodeSelector | None = field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )


class PodAffinity(Struct):
    """What a pod requires of its neighbours; mlsched only asks whether there is any."""

    required: list[Raw] = field(
        default_factory=list, name="requiredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(Struct, rename="camel"):
    """All kinds of affinity."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class SpreadConstraint(Struct, rename="camel"):
    """A topology spread constraint."""

    when_unsatisfiable: str = ""


class PodClaim(Struct, rename="camel"):
    """A claim that a pod uses."""

    name: str = ""
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class PodSpec(Struct, rename="camel"):
    """What placement needs of a pod's spec."""

    node_name: str = ""
    scheduler_name: str = ""
    containers: list[Container] = field(default_factory=list)
    init_containers: list[Container] = field(default_factory=list)
    overhead: Quantities = field(default_factory=dict)
    resources: Resources | None = None
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[TolerationObject] = field(default_factory=list)
    affinity: Affinity | None = None
    topology_spread_constraints: list[SpreadConstraint] = field(default_factory=list)
    priority: int = 0
    scheduling_group: SchedulingGroup | None = None
    scheduling_gates: list[dict[str, Any]] = field(default_factory=list)
    resource_claims: list[PodClaim] = field(default_factory=list)


class Terminated(Struct, rename="camel"):
    """How a container ended."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class Waiting(Struct):
    """Why a container has not started."""

    reason: str = ""
    message: str = ""


class Running(Struct, rename="camel"):
    """Since when a container runs."""

    started_at: str | None = None


class ContainerState(Struct):
    """Exactly one of the three, or none before the kubelet has looked."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class DeviceHealth(Struct, rename="camel"):
    """One device that a container holds."""

    resource_id: str = field(default="", name="resourceID")
    health: str = ""


class DevicesStatus(Struct):
    """Devices of one resource that a container holds."""

    name: str = ""
    resources: list[DeviceHealth] = field(default_factory=list)


class ContainerStatus(Struct, rename="camel"):
    """What the kubelet says of a container."""

    name: str = ""
    state: ContainerState = field(default_factory=ContainerState)
    last_state: ContainerState = field(default_factory=ContainerState)
    restart_count: int = 0
    allocated_resources_status: list[DevicesStatus] = field(default_factory=list)


class ObjectCondition(Struct, rename="camel"):
    """A condition of a pod or a node."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class PodStatus(Struct, rename="camel"):
    """What the kubelet and others say of a pod."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = field(default="", name="podIP")
    start_time: str | None = None
    conditions: list[ObjectCondition] = field(default_factory=list)
    container_statuses: list[ContainerStatus] = field(default_factory=list)
    init_container_statuses: list[ContainerStatus] = field(default_factory=list)


class Pod(Struct):
    """One pod."""

    metadata: Metadata
    spec: PodSpec = field(default_factory=PodSpec)
    status: PodStatus = field(default_factory=PodStatus)

    @property
    def is_over(self) -> bool:
        """Whether all of its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")


class TaintObject(Struct):
    """A taint as a node has it."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Struct, rename="camel"):
    """What placement needs of a node's spec."""

    unschedulable: bool = False
    taints: list[TaintObject] = field(default_factory=list)


class NodeStatus(Struct):
    """What a kubelet says of its node."""

    capacity: Quantities = field(default_factory=dict)
    allocatable: Quantities = field(default_factory=dict)
    conditions: list[ObjectCondition] = field(default_factory=list)


class NodeObject(Struct):
    """One node."""

    metadata: Metadata
    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus = field(default_factory=NodeStatus)


class MLJob(Struct):
    """One MLJob object."""

    metadata: Metadata
    spec: dict[str, Any] = {}
    status: JobStatus | None = None

    @property
    def identity(self) -> Identity:
        """What its metadata says of its job."""
        m = self.metadata
        return Identity(m.namespace, m.name, m.creation_timestamp, m.annotations)


def job_path(namespace: str, name: str = "") -> str:
    """Of one MLJob, or of all in a namespace; of all in all namespaces without one."""
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"{GROUP_PATH}{inside}/{PLURAL}" + (f"/{name}" if name else "")


class QueueSpec(Struct):
    """The spec of an MLQueue."""

    paused: bool = False


class QueueObject(Struct):
    """One MLQueue."""

    metadata: Metadata
    spec: QueueSpec = field(default_factory=QueueSpec)


class GangPolicy(Struct, rename="camel"):
    """How many pods of a group must be placed together."""

    min_count: int = 0


class SchedulingPolicy(Struct):
    """Gang, or nothing."""

    gang: GangPolicy | None = None


class PodGroupSpec(Struct, rename="camel"):
    """The spec of a core PodGroup."""

    scheduling_policy: SchedulingPolicy = field(default_factory=SchedulingPolicy)
    priority: int | None = None


class PodGroup(Struct):
    """One PodGroup of scheduling.k8s.io."""

    metadata: Metadata
    spec: PodGroupSpec = field(default_factory=PodGroupSpec)


class Partial(Struct):
    """Any object of which only the metadata matters."""

    metadata: Metadata


class ListMetadata(Struct, rename="camel"):
    """The version of a list, and where it goes on."""

    resource_version: str = ""
    continue_: str = field(default="", name="continue")


class RawList(Struct):
    """A list whose items are decoded one by one, so that one bad object spoils itself alone."""

    metadata: ListMetadata
    items: list[Raw] = field(default_factory=list)


class WatchEvent(Struct):
    """One line of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: Raw


_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


@lru_cache(maxsize=4096)
def parse_milli(quantity: str | float) -> int:
    """A quantity in thousandths, rounded up: 1500 for ``1.5`` or ``1500m``.

    Source: the serialization format of Kubernetes' resource.Quantity.

    Raises:
        ValueError: it is none.
    """
    text = str(quantity).strip()
    if text.endswith(("m", "u", "n")):
        divisor = {"m": 1, "u": 10**3, "n": 10**6}[text[-1]]
        return -(-_scaled(text[:-1], 1) // divisor)
    for suffix in ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "k", "M", "G", "T", "P", "E"):
        if text.endswith(suffix):
            return _scaled(text.removesuffix(suffix), 1000 * _SUFFIXES[suffix])
    return _scaled(text, 1000)


def _scaled(number: str, factor: int) -> int:
    from fractions import Fraction

    value = Fraction(number) * factor
    return -(-value.numerator // value.denominator)


def parse_units(quantity: str | float) -> int:
    """A quantity in whole units, rounded up: bytes of memory, GPUs, pods.

    Raises:
        ValueError: it is none.
    """
    return -(-parse_milli(quantity) // 1000)


decode_job = Decoder(MLJob).decode
decode_raw_list = Decoder(RawList).decode
decode_partial = Decoder(Partial).decode
decode_pod = Decoder(Pod).decode
decode_watch_event = Decoder(WatchEvent).decode
