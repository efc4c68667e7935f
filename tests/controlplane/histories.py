"""The lives of pods and jobs, put together from a journal: what the laws are judged by.

Knows what labels and statuses of mlsched look like from its documents, and shares no code with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.controlplane.journals import Change

Json = dict[str, Any]
NEVER = 1 << 62
OVER = ("Succeeded", "Failed")
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass
class PodLife:
    """One pod, by uid; revisions are NEVER for what has not happened.

    Attributes:
        unit: Uid of its MLJob and index in its array; empty for pods of others.
        bound: Since when it has a node.
        over: Since when nothing of it runs.
    """

    uid: str
    name: str
    unit: tuple[str, str]
    attempt: int
    group: int
    created: int
    created_s: float
    gang: str = ""
    node: str = ""
    nodes: list[str] = field(default_factory=list)
    bound: int = NEVER
    bound_s: float = 0.0
    deleting: int = NEVER
    deleting_s: float = 0.0
    over: int = NEVER
    over_s: float = 0.0
    phase: str = "Pending"
    reason: str = ""
    codes: list[int] = field(default_factory=list)
    gpus: int = 0
    milli_cpus: int = 0

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.name} ({self.uid[:8]})"


@dataclass
class Record:
    """What a status says of one job at one revision."""

    revision: int
    at_s: float
    state: str
    attempt: int
    value: Json


@dataclass
class JobLife:
    """One MLJob, by uid."""

    uid: str
    name: str
    spec: Json
    created: int
    records: dict[str, list[Record]] = field(default_factory=dict)
    """By index of the element; empty for a job that is no array."""
    epochs: list[int] = field(default_factory=list)
    cancelled: int = NEVER
    deleted: int = NEVER
    deleted_s: float = 0.0

    def at(self, index: str, revision: int) -> Record | None:
        """The last record before a revision."""
        found = [one for one in self.records.get(index, ()) if one.revision < revision]
        return found[-1] if found else None


@dataclass
class History:
    """All lives in one namespace."""

    pods: dict[str, PodLife] = field(default_factory=dict)
    jobs: dict[str, JobLife] = field(default_factory=dict)

    def units(self) -> Iterator[tuple[JobLife, str, list[PodLife]]]:
        """Each job and element with its pods in the order of their creation."""
        for job in self.jobs.values():
            array = job.spec.get("array")
            for index in indices(array) if array is not None else [""]:
                pods = [one for one in self.pods.values() if one.unit == (job.uid, index)]
                yield job, index, sorted(pods, key=lambda one: one.created)


def indices(array: Any) -> list[str]:
    """The indices of ``0-3`` or ``0-3%2``."""
    first, _, last = str(array).partition("%")[0].partition("-")
    return [str(index) for index in range(int(first), int(last) + 1)]


def read_history(changes: Iterable[Change]) -> History:
    """The lives that a journal tells of."""
    history = History()
    living: dict[tuple[str, str], str] = {}
    for change in changes:
        key = (change.kind, change.name)
        uid = change.value["metadata"]["uid"] if change.value else ""
        if living.get(key, uid) != uid:
            _end(history, change, living.pop(key))
        if change.value is None:
            continue
        living[key] = uid
        if change.kind == "pod":
            _note_pod(history, change, change.value)
        else:
            _note_job(history, change, change.value)
    return history


def _end(history: History, change: Change, uid: str) -> None:
    if uid in history.pods:
        pod = history.pods[uid]
        if pod.over == NEVER:
            pod.over, pod.over_s = change.revision, change.at_s
    elif uid in history.jobs:
        history.jobs[uid].deleted = change.revision
        history.jobs[uid].deleted_s = change.at_s


def _note_pod(history: History, change: Change, value: Json) -> None:
    uid = value["metadata"]["uid"]
    pod = history.pods.get(uid) or history.pods.setdefault(uid, _new_pod(change, value))
    node = value["spec"].get("nodeName", "")
    if node and node not in pod.nodes:
        pod.nodes.append(node)
        pod.node, pod.bound, pod.bound_s = node, change.revision, change.at_s
    if value["metadata"].get("deletionTimestamp") and pod.deleting == NEVER:
        pod.deleting, pod.deleting_s = change.revision, change.at_s
    status = value.get("status", {})
    pod.phase, pod.reason = status.get("phase", "Pending"), status.get("reason", "")
    if pod.phase in OVER and pod.over == NEVER:
        pod.over, pod.over_s = change.revision, change.at_s
    ends = [one["state"].get("terminated") for one in status.get("containerStatuses", ())]
    pod.codes = [one["exitCode"] for one in ends if one] or pod.codes


def _new_pod(change: Change, value: Json) -> PodLife:
    metadata = value["metadata"]
    labels = metadata.get("labels", {})
    owners = [one["uid"] for one in metadata.get("ownerReferences", ()) if one["kind"] == "MLJob"]
    pod = PodLife(
        uid=metadata["uid"],
        name=metadata["name"],
        unit=(owners[0], labels.get("mlsched.io/index", "")) if owners else ("", ""),
        attempt=int(labels.get("mlsched.io/attempt", 0)),
        group=int(labels.get("mlsched.io/group", 0)),
        created=change.revision,
        created_s=change.at_s,
        gang=labels.get("tests/gang", ""),
    )
    for container in value["spec"]["containers"]:
        resources = container.get("resources", {})
        asked = {**resources.get("limits", {}), **resources.get("requests", {})}
        pod.gpus += int(asked.get("nvidia.com/gpu", 0))
        cpu = str(asked.get("cpu", "0"))
        pod.milli_cpus += int(cpu[:-1]) if cpu.endswith("m") else 1000 * int(cpu)
    return pod


def _note_job(history: History, change: Change, value: Json) -> None:
    metadata = value["metadata"]
    uid = metadata["uid"]
    job = history.jobs.get(uid)
    if job is None:
        job = JobLife(uid, metadata["name"], value["spec"], change.revision)
        history.jobs[uid] = job
    if "mlsched.io/cancel" in metadata.get("annotations", {}) and job.cancelled == NEVER:
        job.cancelled = change.revision
    status = value.get("status")
    if not status:
        return
    job.epochs.append(status.get("epoch", 0))
    records = [("", status)]
    if "array" in job.spec:
        records = [(str(one["index"]), one) for one in status.get("elements", ())]
    for index, one in records:
        known = job.records.setdefault(index, [])
        record = Record(change.revision, change.at_s, one["state"], one.get("attempt", 0), one)
        if not known or known[-1].value != one:
            known.append(record)
