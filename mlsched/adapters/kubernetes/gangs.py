"""Pods of other operators that say ``schedulerName: mlsched``, gathered into gangs. No I/O.

A pod without a group is a job of its own. A group is a job once as many of its pods exist as must
be placed together; members that are bound already count, so that a gang that was cut off in the
middle of its binding is made whole.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from msgspec import Struct

from mlsched.adapters.kubernetes.objects import Pod, PodGroup
from mlsched.adapters.kubernetes.requests import UnsupportedPodError, need_of_pod
from mlsched.adapters.kubernetes.tracks import key_of
from mlsched.model.events import Event, JobSubmitted, JobWithdrawn
from mlsched.model.jobs import Job
from mlsched.model.specs import PRIORITY_MAX, JobSpec

SCHEDULER_NAME = "mlsched"

KUEUE_GROUP, KUEUE_COUNT = "kueue.x-k8s.io/pod-group-name", "kueue.x-k8s.io/pod-group-total-count"
VOLCANO_GROUP, VOLCANO_COUNT = (
    "scheduling.k8s.io/group-name",
    "scheduling.volcano.sh/group-min-member",
)
COSCHEDULING_GROUP, COSCHEDULING_COUNT = (
    "pod-group.scheduling.sigs.k8s.io/name",
    "pod-group.scheduling.sigs.k8s.io/min-available",
)
_FORMS = (
    (KUEUE_GROUP, KUEUE_COUNT),
    (VOLCANO_GROUP, VOLCANO_COUNT),
    (COSCHEDULING_GROUP, COSCHEDULING_COUNT),
)
"""Name and size of a group as labels or annotations. Source: the documentation of Kueue's plain
pod groups, of Volcano's annotations, and of the lightweight coscheduling plugin."""

_DIGITS_MAX = 9
"""Of the size of a group; annotations have room for more than Python turns into a number."""


class Group(Struct, frozen=True):
    """Which gang a pod belongs to."""

    key: str
    """``NAMESPACE/NAME`` of the group; of a pod without one its own, with its uid."""
    min_count: int
    """Members that must be placed together; 0 while nobody has said."""
    is_core: bool = False
    """Whether the core PodGroup API says so."""


def group_of(pod: Pod, pod_groups: dict[str, PodGroup]) -> Group:
    """The gang of a pod, by the core API first, then by the forms of other schedulers."""
    metadata = pod.metadata
    group = pod.spec.scheduling_group
    if group is not None and group.pod_group_name:
        key = f"{metadata.namespace}/{group.pod_group_name}"
        known = pod_groups.get(key)
        if known is None:
            return Group(f"core {key}", 0, is_core=True)
        gang = known.spec.scheduling_policy.gang
        return Group(f"core {key}", gang.min_count if gang else 1, is_core=True)
    for name_key, count_key in _FORMS:
        both = {**metadata.annotations, **metadata.labels}
        if both.get(name_key):
            count = both.get(count_key, "")
            size = int(count) if count.isdecimal() and len(count) <= _DIGITS_MAX else 0
            return Group(f"{name_key} {metadata.namespace}/{both[name_key]}", size)
    return Group(f"pod {metadata.key} {metadata.uid}", 1)


def _has_done_its_part(pod: Pod, group: Group) -> bool:
    """Whether a pod that has ended still counts as placed.

    One that succeeded does: its gang may have been cut off in the middle of its binding, and the
    others wait. One that failed does not: what replaces it comes with a whole gang.
    """
    return group.min_count > 1 and pod.status.phase == "Succeeded" and bool(pod.spec.node_name)


class Gang:
    """What is known of one group."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.waiting: dict[str, Pod] = {}
        self.bound: set[str] = set()
        self.job_id = ""
        """The job that stands for its waiting members; empty while there is none."""
        self.members: tuple[str, ...] = ()
        """Keys of the pods of that job, in the order of its needs."""
        self.is_placing = False


class Gangs:
    """All foreign pods that wait, as jobs.

    Args:
        next_seq: Gives each new job its place in the order of acceptance.
        on_unsupported: Told of a pod that cannot be placed, and why; once for each pod.
    """

    def __init__(
        self, next_seq: Callable[[], int], on_unsupported: Callable[[Pod, str], None]
    ) -> None:
        self.pod_groups: dict[str, PodGroup] = {}
        self._next_seq = next_seq
        self._on_unsupported = on_unsupported
        self._gangs: dict[str, Gang] = {}
        self._by_pod: dict[str, str] = {}
        self._by_job: dict[str, Gang] = {}
        self._refused: set[str] = set()
        self._changed: dict[str, None] = {}
        self._made = 0

    def observe(self, before: Pod | None, after: Pod | None) -> None:
        """Take note of a change of a pod; `flush` tells what follows from it."""
        pod = after or before
        if pod is None or pod.spec.scheduler_name != SCHEDULER_NAME or key_of(pod) is not None:
            return
        key = pod.metadata.key
        if after is None or after.metadata.deletion_timestamp is not None:
            self._forget(pod)
            return
        group = group_of(after, self.pod_groups)
        if after.is_over and not _has_done_its_part(after, group):
            self._forget(pod)
            return
        known = self._by_pod.get(key)
        if known is not None and known != group.key:
            self._forget(pod)
        gang = self._gangs.setdefault(group.key, Gang(group))
        gang.group = group
        self._by_pod[key] = group.key
        if after.spec.node_name:
            gang.waiting.pop(key, None)
            gang.bound.add(key)
        elif not after.spec.scheduling_gates:
            gang.waiting[key] = after
        self._changed[group.key] = None

    def observe_group(self, before: PodGroup | None, after: PodGroup | None) -> None:
        """Take note of a change of a core PodGroup."""
        one = after or before
        if one is None:
            return
        key = one.metadata.key
        if after is None:
            self.pod_groups.pop(key, None)
        else:
            self.pod_groups[key] = after
        gang = self._gangs.get(f"core {key}")
        if gang is not None:
            known = after.spec.scheduling_policy.gang if after else None
            size = (known.min_count if known else 1) if after else 0
            gang.group = Group(gang.group.key, size, is_core=True)
            self._changed[gang.group.key] = None

    def begin(self, job_id: str) -> list[Pod]:
        """The pods of a job that is being bound now; empty when its gang has changed meanwhile."""
        gang = self._by_job.get(job_id)
        if gang is None or any(key not in gang.waiting for key in gang.members):
            return []
        gang.is_placing = True
        return [gang.waiting[key] for key in gang.members]

    def owns(self, pod: Pod) -> bool:
        """Whether a pod belongs to a job that is being bound: the ledger counts it already."""
        gang = self._gangs.get(self._by_pod.get(pod.metadata.key, ""))
        return gang is not None and gang.is_placing and pod.metadata.key in gang.members

    def has_settled(self, job_id: str, failed: Container[str] = ()) -> bool:
        """Whether every pod of a job that was bound has been seen bound, or is gone.

        Args:
            failed: Keys of pods that could not be bound.
        """
        gang = self._by_job.get(job_id)
        if gang is None:
            return True
        return not any(key in gang.waiting and key not in failed for key in gang.members)

    def relinquish(self, job_id: str) -> None:
        """A job was not bound, or only in part: it waits again, or one of what is left does."""
        gang = self._by_job.get(job_id)
        if gang is not None:
            gang.is_placing = False
            self._changed[gang.group.key] = None

    def conclude(self, job_id: str) -> None:
        """A job is over: what is left of its gang becomes another one."""
        gang = self._by_job.pop(job_id, None)
        if gang is not None:
            gang.job_id, gang.members, gang.is_placing = "", (), False
            self._changed[gang.group.key] = None

    def flush(self) -> list[Event]:
        """Jobs that have come together or fallen apart since the last call."""
        events: list[Event] = []
        changed, self._changed = self._changed, {}
        for key in changed:
            gang = self._gangs.get(key)
            if gang is not None and not gang.is_placing:
                events.extend(self._settle(gang))
            if gang is not None and not (gang.waiting or gang.bound or gang.job_id):
                del self._gangs[key]
        return events

    def _forget(self, pod: Pod) -> None:
        key = pod.metadata.key
        gang = self._gangs.get(self._by_pod.pop(key, ""))
        self._refused.discard(pod.metadata.uid)
        if gang is not None:
            gang.waiting.pop(key, None)
            gang.bound.discard(key)
            self._changed[gang.group.key] = None

    def _settle(self, gang: Gang) -> Iterable[Event]:
        size = gang.group.min_count
        is_whole = bool(gang.waiting) and 0 < size <= len(gang.waiting) + len(gang.bound)
        members = tuple(sorted(gang.waiting)) if is_whole else ()
        if gang.job_id and members == gang.members:
            return
        if gang.job_id:
            yield JobWithdrawn(gang.job_id)
            self._by_job.pop(gang.job_id, None)
            gang.job_id, gang.members = "", ()
        job = self._make_job(gang, members) if members else None
        if job is not None:
            gang.job_id, gang.members = job.id, members
            self._by_job[job.id] = gang
            yield JobSubmitted(job)

    def _make_job(self, gang: Gang, members: tuple[str, ...]) -> Job | None:
        """The job of waiting pods; None when one of them cannot be placed as it asks."""
        pods = [gang.waiting[key] for key in members]
        needs = []
        for pod in pods:
            try:
                needs.append(need_of_pod(pod))
            except (UnsupportedPodError, ValueError) as error:
                self._refuse(pod, str(error))
                return None
            except Exception as error:  # noqa: BLE001 - one odd pod must not end the work on others
                self._refuse(pod, f"it cannot be understood: {error!r}")
                return None
        self._made += 1
        name = gang.group.key.rpartition(" ")[2] if len(pods) > 1 else pods[0].metadata.name
        priority = max(-PRIORITY_MAX, min(PRIORITY_MAX, max(pod.spec.priority for pod in pods)))
        if 0 < len(gang.bound) < gang.group.min_count:
            priority = PRIORITY_MAX  # a gang that is there in part holds what it cannot use
        spec = JobSpec(command=("pod",), nodes=len(pods), priority=priority)
        return Job(
            id=f"pods:{self._made}:{pods[0].metadata.key}",
            name=name,
            seq=self._next_seq(),
            spec=spec,
            submitted_at_ms=0,
            namespace=pods[0].metadata.namespace,
            needs=tuple(needs),
        )

    def _refuse(self, pod: Pod, why: str) -> None:
        if pod.metadata.uid not in self._refused:
            self._refused.add(pod.metadata.uid)
            self._on_unsupported(pod, why)


def is_foreign(job_id: str) -> bool:
    """Whether a job stands for pods of others."""
    return job_id.startswith("pods:")
