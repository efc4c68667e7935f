"""A cluster as its controller sees it, folded from lists by the same code; nothing is written.

Pods that could start now count as started in the picture, as they do a moment later in the cluster.
What the controller was told at its start (rules for layers, DRA drivers) is read from its lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from mlsched.adapters.kubernetes.announcements import Announcement
from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.gangs import Gangs
from mlsched.adapters.kubernetes.gpunodes import GPU_NODES, ToldNode
from mlsched.adapters.kubernetes.gpuviews import GpuView
from mlsched.adapters.kubernetes.nodes import build_node
from mlsched.adapters.kubernetes.objects import (
    GROUP_PATH,
    POD_GROUPS,
    NodeObject,
    Pod,
    PodGroup,
    QueueObject,
    decode_pod,
    decode_raw_list,
    job_path,
)
from mlsched.adapters.kubernetes.pods import ATTEMPT_LABEL, UID_LABEL
from mlsched.adapters.kubernetes.slices import (
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    ResourceClaim,
    ResourceSlice,
)
from mlsched.adapters.kubernetes.usages import Usages
from mlsched.api.clusters.leases import ControllerView, read_controller
from mlsched.api.clusters.records import Record, decode_list
from mlsched.model.events import Event, Instant, JobRestored, NodeObserved, QueueObserved
from mlsched.model.jobs import Job, JobState
from mlsched.runtime.controller import Controller
from mlsched.specs.records import find_contradiction, worst_of

T = TypeVar("T")


class Lists(msgspec.Struct):
    """Everything that placement looks at, and what could not be read."""

    nodes: list[NodeObject] = []
    pods: list[Pod] = []
    queues: list[QueueObject] = []
    pod_groups: list[PodGroup] = []
    gpu_nodes: list[ToldNode] = []
    slices: list[ResourceSlice] = []
    claims: list[ResourceClaim] = []
    records: list[Record] = []
    controller: ControllerView = ControllerView()
    notes: list[str] = []
    is_whole: bool = True
    """Whether nodes and pods are known: without them nothing can be said about room."""

    @property
    def settings(self) -> Announcement:
        """Those of the controller; the defaults where they are not known."""
        return self.controller.settings or Announcement()


def read_lists(connections: Connections, namespace: str) -> Lists:
    """Read all lists; what the user may not see is left out and noted.

    Raises:
        ApiError: MLJobs of the namespace itself cannot be read.
        NoAnswerError: the API server does not answer.
    """
    lists = Lists()
    try:
        lists.records, _ = decode_list(connections.get(job_path("")))
    except ApiError as error:
        if error.code != 403:
            raise
        lists.records, _ = decode_list(connections.get(job_path(namespace)))
        lists.notes.append(f"you may not list jobs outside {namespace}: others may be ahead")
    lists.nodes = _read(connections, "/api/v1/nodes", _decode_node, "nodes", lists)
    lists.pods = _read(connections, "/api/v1/pods", decode_pod, "pods of all namespaces", lists)
    lists.is_whole = not any(
        note.startswith(("you may not list nodes", "you may not list pods")) for note in lists.notes
    )
    lists.controller = read_controller(connections)
    if lists.controller.note:
        lists.notes.append(lists.controller.note)
    lists.queues = _read(connections, f"{GROUP_PATH}/mlqueues", _decode_queue, "mlqueues", lists)
    lists.pod_groups = _read(connections, POD_GROUPS, _decode_pod_group, "podgroups", lists)
    lists.gpu_nodes = _read(connections, GPU_NODES, _decode_gpu_node, "gpunodes", lists)
    lists.slices = _read(connections, RESOURCE_SLICES, _decode_slice, "resourceslices", lists)
    lists.claims = _read(connections, RESOURCE_CLAIMS, _decode_claim, "resourceclaims", lists)
    return lists


_decode_node = msgspec.json.Decoder(NodeObject).decode
_decode_queue = msgspec.json.Decoder(QueueObject).decode
_decode_pod_group = msgspec.json.Decoder(PodGroup).decode
_decode_gpu_node = msgspec.json.Decoder(ToldNode).decode
_decode_slice = msgspec.json.Decoder(ResourceSlice).decode
_decode_claim = msgspec.json.Decoder(ResourceClaim).decode


def _read(
    connections: Connections,
    path: str,
    decode: Callable[[msgspec.Raw], T],
    name: str,
    lists: Lists,
) -> list[T]:
    """The objects of a list; nothing where it is not served, and a note where it is forbidden."""
    try:
        found = decode_raw_list(connections.get(path))
    except ApiError as error:
        if error.code == 403 and lists.is_whole:
            lists.notes.append(f"you may not list {name}")
        if error.code in (403, 404):
            return []
        raise
    objects = []
    for item in found.items:
        try:
            objects.append(decode(item))
        except msgspec.DecodeError:
            continue
    return objects


class Picture:
    """The controller's state, and what pods of others take.

    Attributes:
        controller: Fed with everything in the lists.
        now: The instant of the picture.
        usages: What pods take that are no jobs of the controller, by node.
        gpus: What node agents and DRA drivers tell.
        layer_rules: As the controller has them.
    """

    def __init__(self, lists: Lists) -> None:
        wall_ms = time.time_ns() // 1_000_000
        self.now = Instant(time.monotonic_ns() // 1_000_000, wall_ms)
        self.controller = Controller(checks=False)
        self.gpus = _gpus(lists)
        self.layer_rules = lists.settings.layer_rules
        placed = [job for one in lists.records for job in one.jobs if job.state.is_placed]
        own = {_attempt_key(one, job) for one in lists.records for job in one.jobs
               if job.state.is_placed}  # fmt: skip
        self.usages = Usages(lambda pod: _key_of_pod(pod) in own)
        for pod in lists.pods:
            self.usages.observe(None, pod)
        events = [*self._nodes(lists.nodes, placed), *_queues(lists.queues)]
        events += [*restored(lists.records), *_foreign(lists)]
        self.controller.step(events, self.now)

    def _nodes(self, nodes: Iterable[NodeObject], placed: Iterable[Job]) -> list[Event]:
        held = {slot for job in placed for group in job.placements for slot in group.devices}
        events: list[Event] = []
        for node in nodes:
            try:
                built = build_node(
                    node,
                    self.usages.of(node.metadata.name),
                    lambda slot: slot in held,
                    self.layer_rules,
                    gpus=self.gpus.of(node.metadata.name, self.now.wall_ms),
                )
            except ValueError:
                continue
            events.append(NodeObserved(built))
        return events


def _gpus(lists: Lists) -> GpuView:
    view = GpuView(lists.settings.dra_drivers)
    for node in lists.gpu_nodes:
        view.observe_gpu_node(None, node)
    for one in lists.slices:
        view.observe_slice(None, one)
    for claim in lists.claims:
        view.observe_claim(None, claim)
    return view


def _attempt_key(record: Record, job: Job) -> tuple[str, str]:
    return record.object.metadata.uid, str(job.attempt)


def _key_of_pod(pod: Pod) -> tuple[str, str]:
    labels = pod.metadata.labels
    return labels.get(UID_LABEL, ""), labels.get(ATTEMPT_LABEL, "")


def _queues(queues: Iterable[QueueObject]) -> list[Event]:
    return [
        QueueObserved(one.metadata.name, one.spec.paused, one.metadata.namespace) for one in queues
    ]


def restored(records: Sequence[Record]) -> list[Event]:
    """Jobs that have not ended, each with the ends of what it waits for."""
    ended: dict[str, JobState] = {}
    for record in records:
        metadata = record.object.metadata
        states = [job.state for job in record.jobs]
        ended.update({job.id: job.state for job in record.jobs if job.state.is_ended})
        if all(state.is_ended for state in states):
            ended[metadata.key] = worst_of(states)
    events: list[Event] = []
    for record in records:
        over = [job.state for job in record.jobs if job.state.is_ended]
        for job in record.jobs:
            if job.state.is_ended or record.object.metadata.deletion_timestamp is not None:
                continue
            if find_contradiction(job):
                continue  # the controller leaves it alone, too
            known = {d.job_id: ended[d.job_id] for d in job.after if d.job_id in ended}
            if job.array is not None and over:
                known[job.array.array_id] = worst_of(over)
            events.append(JobRestored(job, known))
    return events


def _foreign(lists: Lists) -> list[Event]:
    """Pods of others that wait for us, as jobs behind those of MLJobs."""
    seq = len(lists.records)

    def next_seq() -> int:
        nonlocal seq
        seq += 1
        return seq

    gangs = Gangs(next_seq, lambda pod, why: None)
    for group in lists.pod_groups:
        gangs.observe_group(None, group)
    for pod in sorted(lists.pods, key=lambda one: one.metadata.creation_timestamp):
        gangs.observe(None, pod)
    return gangs.flush()
