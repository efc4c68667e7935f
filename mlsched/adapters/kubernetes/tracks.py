"""One attempt while it has not ended: what is known of its pods, and what follows from it. No I/O.

What is decided first stands: an attempt that was stopped, or whose first pod failed, ends so,
whatever its other pods do while they are being deleted.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from mlsched.adapters.kubernetes.attempts import (
    Reading,
    Summary,
    is_hopeless,
    read_pod,
    summarize,
)
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.pods import (
    ATTEMPT_LABEL,
    GROUP_LABEL,
    INDEX_LABEL,
    UID_LABEL,
    Owner,
    pod_name,
)
from mlsched.model.jobs import EndCause, Job, Outcome

Key = tuple[str, str, str]
"""Uid of the MLJob, index of the element or empty, number of the attempt: as labels have them."""


def key_of(pod: Pod) -> Key | None:
    """Which attempt a pod belongs to; None for the pods of others."""
    labels = pod.metadata.labels
    uid = labels.get(UID_LABEL, "")
    if not uid or uid not in [one.uid for one in pod.metadata.owner_references]:
        return None
    return uid, labels.get(INDEX_LABEL, ""), labels.get(ATTEMPT_LABEL, "")


def key_of_attempt(job: Job, owner: Owner) -> Key:
    """As the labels of the pods of ``job.attempt`` say it."""
    return owner.uid, str(job.array.index) if job.array else "", str(job.attempt)


class Decision(Struct, frozen=True):
    """What follows from the present state of an attempt."""

    started_at_ms: int | None = None
    """It runs since then; told once."""
    deletes: bool = False
    """What still runs of it must be deleted."""
    trouble: Outcome | None = None
    """It cannot start now: how it ends if that does not change."""
    ended: Outcome | None = None
    """It is over; told once, and nothing after it."""


class Track:
    """What is known of one attempt."""

    def __init__(self, job: Job, owner: Owner) -> None:
        self.job = job
        self.owner = owner
        self.verdict: Outcome | None = None
        """How it ends, while some of it may still run."""
        self.grace_s = job.spec.grace_seconds
        self.is_creating = False
        """Requests are under way that may still make pods."""
        self.has_ended = False
        self._readings: dict[int, Reading] = {}
        self._deleted: set[int] = set()
        self._has_started = False

    @property
    def groups(self) -> int:
        """How many pods it has when it is whole."""
        return len(self.job.placements)

    @property
    def missing(self) -> list[int]:
        """Groups of which no pod was seen."""
        return [group for group in range(self.groups) if group not in self._readings]

    @property
    def is_being_deleted(self) -> bool:
        """Whether a pod of it was deleted, or is about to go."""
        return bool(self._deleted)

    def pod_key(self, group: int) -> str:
        """``NAMESPACE/NAME`` of the pod of a group."""
        return f"{self.owner.namespace}/{pod_name(self.job, self.owner, group)}"

    def is_over(self, group: int) -> bool:
        """Whether nothing runs any more of a group."""
        reading = self._readings.get(group)
        return reading is not None and reading.is_over

    def note(self, pod: Pod, *, is_gone: bool) -> None:
        """Take note of a pod's state; ``is_gone``: it was the last one."""
        group = pod.metadata.labels.get(GROUP_LABEL, "")
        if not group.isdecimal() or int(group) >= self.groups:
            return
        if pod.metadata.deletion_timestamp is not None or is_gone:
            self._deleted.add(int(group))
        self._readings[int(group)] = read_pod(pod, is_gone=is_gone)

    def rule(self, outcome: Outcome) -> None:
        """Decide how it ends, unless that is decided, or all of it has succeeded."""
        if self.verdict is None and self._summary().success is None:
            self.verdict = outcome

    def lose(self, groups: Iterable[int], why: str) -> None:
        """These groups were on a node that is gone for good."""
        self.rule(Outcome(EndCause.NODE_LOST, message=why))
        for group in groups:
            self._readings[group] = Reading(is_over=True)

    def trouble(self) -> Outcome | None:
        """Why it does not start, if something keeps it from starting now."""
        return self._summary().trouble

    def decide(self) -> Decision:
        """What is new, and what must be done; an end is told once."""
        summary = self._summary()
        started_at_ms = None
        if summary.started_at_ms is not None and not self._has_started:
            self._has_started = True
            started_at_ms = summary.started_at_ms
        success = summary.success
        if success is not None and (self.verdict is None or not self._deleted):
            self.has_ended = True
            return Decision(started_at_ms, ended=success)
        hopeless = summary.trouble if summary.trouble and is_hopeless(summary.trouble) else None
        found = summary.failure or hopeless
        deletes = self.verdict is None and found is not None
        if deletes:
            self.verdict = found
        ended = None
        if self.verdict is not None and summary.is_over and not self.is_creating:
            self.has_ended = True
            ended = _dated(self.verdict, summary)
        trouble = summary.trouble if self.verdict is None else None
        return Decision(started_at_ms, deletes, trouble, ended)

    def _summary(self) -> Summary:
        return summarize(self._readings, self.groups)


def _dated(outcome: Outcome, summary: Summary) -> Outcome:
    ended_at_ms = outcome.ended_at_ms or summary.ended_at_ms
    return replace(outcome, ended_at_ms=ended_at_ms, run_ms=outcome.run_ms or summary.run_ms)
