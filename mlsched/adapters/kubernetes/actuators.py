"""Starts and stops attempts as pods, and tells from the pods what became of them.

All writes may be repeated: pods have names that only one attempt has, and are deleted by uid. What
the API server answered last is kept in the reflector of pods, which is the only source of events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from msgspec.structs import replace

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.attempts import (
    Reading,
    Summary,
    is_hopeless,
    read_pod,
    summarize,
)
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.pods import (
    ATTEMPT_LABEL,
    GROUP_LABEL,
    INDEX_LABEL,
    UID_LABEL,
    Owner,
    build_pod,
    build_service,
    is_gang,
    pod_name,
)
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.errors import SpecError
from mlsched.model.events import AttemptEnded, AttemptStarted, AttemptStuck, Event
from mlsched.model.jobs import EndCause, Enforcement, Job, JobState, Outcome

TROUBLE_S_MAX = 300.0
"""How long an image may not come, or a container not be made, before the attempt has failed."""

STUCK_S = 60.0
"""Beyond its grace, before a pod that was deleted and still lives is called stuck (F24)."""

ENFORCEMENT = Enforcement(memory="kubelet", cpus="kubelet")

Key = tuple[str, str, str]
"""Uid of the MLJob, index of the element or empty, number of the attempt: as labels have them."""


class _Tracked:
    """One attempt that has not ended."""

    def __init__(self, job: Job, owner: Owner) -> None:
        self.job = job
        self.owner = owner
        self.readings: dict[int, Reading] = {}
        self.deleted: set[int] = set()
        """Groups whose pods were being deleted when they were last seen."""
        self.verdict: Outcome | None = None
        """Decided already, while some of it may still run."""
        self.grace_s = job.spec.grace_seconds
        self.is_creating = False
        self.has_started = False
        self.has_ended = False
        self.timers: list[asyncio.TimerHandle] = []
        self.has_trouble = False

    @property
    def groups(self) -> int:
        return len(self.job.placements)

    def end(self) -> None:
        self.has_ended = True
        for timer in self.timers:
            timer.cancel()


class PodActuator:
    """The Actuator of MLJobs.

    Args:
        api: Where pods are made.
        pods: The copy of all pods; `observe` must be told of its changes.
        find_owner: The MLJob of a job; None when it is gone.
        emit: Takes the events.
        image: For jobs that name none.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        api: Api,
        pods: Reflector[Pod],
        find_owner: Callable[[str], Owner | None],
        emit: Callable[[Event], None],
        *,
        image: str = "",
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._pods = pods
        self._find_owner = find_owner
        self._emit = emit
        self._image = image
        self._on_problem = on_problem
        self._tracked: dict[Key, _Tracked] = {}
        self._by_attempt: dict[tuple[str, int], Key] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def launch(self, job: Job) -> None:
        """Create the pods of an attempt that are not there; any end comes as an event."""
        tracked = self.track(job)
        if tracked is None or tracked.has_ended or tracked.verdict is not None:
            return
        tracked.is_creating = True
        try:
            await self._create(tracked)
        finally:
            tracked.is_creating = False
        self._end_rest(tracked)
        self._look(tracked)

    async def adopt(self, job: Job) -> None:
        """Find the pods of an attempt that an earlier controller began."""
        tracked = self.track(job)
        if tracked is None:
            return
        missing = [g for g in range(tracked.groups) if g not in tracked.readings]
        if job.state is JobState.RUNNING and missing:
            name = pod_name(job, tracked.owner, missing[0])
            text = f"its pod {name} was deleted while no controller ran"
            tracked.verdict = Outcome(EndCause.DELETED, message=text)
            self._delete_pods(tracked)
            self._look(tracked)
        elif missing and not job.cancel_requested:
            await self.launch(job)
        else:
            self._look(tracked)

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        """Delete the pods of an attempt; one that was never launched ends at once."""
        key = self._by_attempt.get((job_id, attempt))
        tracked = self._tracked.get(key) if key else None
        if tracked is None:
            text = "stopped before anything was started"
            self._emit(AttemptEnded(job_id, attempt, Outcome(EndCause.REVOKED, message=text)))
            return
        tracked.grace_s = grace_s
        if tracked.verdict is None and _succeeded(tracked) is None:
            tracked.verdict = Outcome(EndCause.STOPPED, 143, 15, message="was asked to stop")
        self._delete_pods(tracked)
        self._look(tracked)

    def owns(self, pod: Pod) -> bool:
        """Whether a pod belongs to an attempt that has not ended: the ledger counts it already."""
        return key_of(pod) in self._tracked

    def observe(self, before: Pod | None, after: Pod | None) -> None:
        """Take note of a change of a pod."""
        pod = after or before
        key = key_of(pod) if pod is not None else None
        if pod is None or key is None:
            return
        tracked = self._tracked.get(key)
        if tracked is not None:
            self._note(tracked, pod, is_gone=after is None)
            self._look(tracked)

    def lose_node(self, name: str, why: str) -> None:
        """End what had pods on a node that is gone for good."""
        for tracked in list(self._tracked.values()):
            lost = [g for g, p in enumerate(tracked.job.placements) if p.node == name]
            open_groups = [g for g in lost if not self._is_over(tracked, g)]
            if not open_groups:
                continue
            if tracked.verdict is None:
                tracked.verdict = Outcome(EndCause.NODE_LOST, message=why)
            for group in open_groups:
                tracked.readings[group] = Reading(is_over=True)
            self._delete_pods(tracked, grace_s=0, only=open_groups)
            self._delete_pods(tracked)
            self._look(tracked)

    async def close(self) -> None:
        """Stop what is under way; pods go on."""
        for tracked in self._tracked.values():
            tracked.end()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end_rest(self, tracked: _Tracked) -> None:
        """Delete what an attempt that is decided has left."""
        if tracked.verdict is not None:
            self._delete_pods(tracked)

    def _is_over(self, tracked: _Tracked, group: int) -> bool:
        reading = tracked.readings.get(group)
        return reading is not None and reading.is_over

    def track(self, job: Job) -> _Tracked | None:
        """Count the pods of an attempt as ours from now on; None when its MLJob is gone."""
        owner = self._find_owner(job.id)
        if owner is None:
            text = "its MLJob was deleted"
            self._emit(AttemptEnded(job.id, job.attempt, Outcome(EndCause.REVOKED, message=text)))
            return None
        index = str(job.array.index) if job.array else ""
        key = (owner.uid, index, str(job.attempt))
        if key not in self._tracked:
            tracked = self._tracked[key] = _Tracked(job, owner)
            self._by_attempt[job.id, job.attempt] = key
            for group in range(tracked.groups):
                pod = self._pods.objects.get(f"{owner.namespace}/{pod_name(job, owner, group)}")
                if pod is not None and key_of(pod) == key:
                    self._note(tracked, pod, is_gone=False)
        return self._tracked[key]

    def _note(self, tracked: _Tracked, pod: Pod, *, is_gone: bool) -> None:
        group = pod.metadata.labels.get(GROUP_LABEL, "")
        if not group.isdecimal() or int(group) >= tracked.groups:
            return
        if pod.metadata.deletion_timestamp is not None or is_gone:
            tracked.deleted.add(int(group))
        tracked.readings[int(group)] = read_pod(pod, is_gone=is_gone)

    def _look(self, tracked: _Tracked) -> None:
        """Tell what is new of an attempt, and end what is left of one that has failed."""
        if tracked.has_ended:
            return
        summary = summarize(tracked.readings, tracked.groups)
        if summary.started_at_ms is not None and not tracked.has_started:
            tracked.has_started = True
            job = tracked.job
            self._emit(AttemptStarted(job.id, job.attempt, summary.started_at_ms, ENFORCEMENT))
        success = summary.success
        if success is not None and (tracked.verdict is None or not tracked.deleted):
            self._end(tracked, success)
            return
        if tracked.verdict is None and summary.failure is not None:
            tracked.verdict = summary.failure
            self._delete_pods(tracked)
        if tracked.verdict is None:
            self._mind(tracked, summary)
        elif summary.is_over and not tracked.is_creating:
            self._end(tracked, _dated(tracked.verdict, summary))

    def _mind(self, tracked: _Tracked, summary: Summary) -> None:
        """Give a pod that cannot start some time; none where waiting is in vain."""
        trouble = summary.trouble
        tracked.has_trouble = trouble is not None
        if trouble is None:
            return
        if is_hopeless(trouble):
            tracked.verdict = trouble
            self._delete_pods(tracked)
        elif not tracked.timers:
            loop = asyncio.get_running_loop()
            tracked.timers.append(loop.call_later(TROUBLE_S_MAX, self._give_up, tracked))

    def _give_up(self, tracked: _Tracked) -> None:
        tracked.timers.clear()
        trouble = summarize(tracked.readings, tracked.groups).trouble
        if trouble is not None and tracked.verdict is None:
            tracked.verdict = trouble
            self._delete_pods(tracked)
            self._look(tracked)

    def _end(self, tracked: _Tracked, outcome: Outcome) -> None:
        tracked.end()
        job = tracked.job
        key = self._by_attempt.pop((job.id, job.attempt), None)
        if key is not None:
            self._tracked.pop(key, None)
        if not outcome.ended_at_ms:
            outcome = replace(outcome, ended_at_ms=time.time_ns() // 1_000_000)
        self._emit(AttemptEnded(job.id, job.attempt, outcome))

    async def _create(self, tracked: _Tracked) -> None:
        job, owner = tracked.job, tracked.owner
        now_s = time.time_ns() // 1_000_000_000
        try:
            bodies = {
                group: build_pod(job, owner, group, now_s, self._image)
                for group in range(tracked.groups)
                if group not in tracked.readings
            }
        except SpecError as error:
            text = f"{error.message} {error.hint}".strip()
            tracked.verdict = Outcome(EndCause.CANNOT_START, message=text)
            return
        if is_gang(job):
            await self._create_one(tracked, "services", build_service(job, owner))
        if tracked.verdict is None:
            await asyncio.gather(
                *(self._create_one(tracked, "pods", body) for body in bodies.values())
            )

    async def _create_one(self, tracked: _Tracked, plural: str, body: dict[str, Any]) -> None:
        """Create an object; whatever the API server decides for good is the attempt's verdict."""
        path = f"/api/v1/namespaces/{tracked.owner.namespace}/{plural}"
        encoded = msgspec.json.encode(body)
        try:
            found = await insist(lambda: self._api.create(path, encoded), self._on_problem)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                await self._check_ours(tracked, path, body, plural)
            elif tracked.verdict is None:
                tracked.verdict = _refusal(error)
            return
        if plural == "pods":
            self._pods.put(found)

    async def _check_ours(
        self, tracked: _Tracked, path: str, body: dict[str, Any], plural: str
    ) -> None:
        """An object of this name that belongs to this MLJob is what we wanted, whoever made it."""
        name = body["metadata"]["name"]
        try:
            found = await insist(lambda: self._api.get(f"{path}/{name}"), self._on_problem)
        except ApiError:
            if tracked.verdict is None:
                text = f"{plural[:-1]} {name} was deleted, and not by mlsched"
                tracked.verdict = Outcome(EndCause.DELETED, message=text)
            return
        pod = msgspec.json.decode(found, type=Pod)
        owners = [one.uid for one in pod.metadata.owner_references]
        if tracked.owner.uid in owners:
            if plural == "pods":
                self._pods.put(found)
                if pod.spec.node_name != body["spec"]["nodeName"] and tracked.verdict is None:
                    text = f"pod {name} was placed on {pod.spec.node_name} by another controller"
                    tracked.verdict = Outcome(EndCause.REVOKED, message=text)
        elif tracked.verdict is None:
            text = f"a {plural[:-1]} named {name} exists that is not of this job"
            tracked.verdict = Outcome(EndCause.CANNOT_START, message=text)

    def _delete_pods(
        self, tracked: _Tracked, *, grace_s: int | None = None, only: list[int] | None = None
    ) -> None:
        """Begin to delete what still runs of an attempt."""
        grace_s = tracked.grace_s if grace_s is None else grace_s
        for group in range(tracked.groups) if only is None else only:
            name = pod_name(tracked.job, tracked.owner, group)
            pod = self._pods.objects.get(f"{tracked.owner.namespace}/{name}")
            if pod is None or key_of(pod) not in self._tracked or pod.is_over:
                continue
            if only is None and self._is_over(tracked, group):
                continue
            self._begin(self._delete(pod, grace_s))
            loop = asyncio.get_running_loop()
            timer = loop.call_later(grace_s + STUCK_S, self._tell_stuck, tracked, pod)
            tracked.timers.append(timer)

    async def _delete(self, pod: Pod, grace_s: int) -> None:
        path = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"
        uid = pod.metadata.uid
        try:
            await insist(lambda: self._api.delete(path, uid, grace_s), self._on_problem)
        except ApiError as error:
            if error.code in (404, 409):
                self._pods.note_gone(pod.metadata.key, uid, 0)
            else:
                self._on_problem(f"cannot delete {pod.metadata.key}: {error}")

    def _tell_stuck(self, tracked: _Tracked, pod: Pod) -> None:
        if not tracked.has_ended:
            text = (
                f"pod {pod.metadata.name} on {pod.spec.node_name} was deleted and does not end:"
                " the job keeps what it holds until it does, or its node is gone"
            )
            job = tracked.job
            self._emit(AttemptStuck(job.id, job.attempt, (), text))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def key_of(pod: Pod) -> Key | None:
    """Which attempt a pod belongs to; None for the pods of others."""
    labels = pod.metadata.labels
    uid = labels.get(UID_LABEL, "")
    if not uid or uid not in [one.uid for one in pod.metadata.owner_references]:
        return None
    return uid, labels.get(INDEX_LABEL, ""), labels.get(ATTEMPT_LABEL, "")


def _succeeded(tracked: _Tracked) -> Outcome | None:
    return summarize(tracked.readings, tracked.groups).success


def _dated(outcome: Outcome, summary: Summary) -> Outcome:
    ended_at_ms = outcome.ended_at_ms or summary.ended_at_ms
    return replace(outcome, ended_at_ms=ended_at_ms, run_ms=outcome.run_ms or summary.run_ms)


def _refusal(error: ApiError) -> Outcome:
    """What a refused create makes of the attempt: quotas pass, all else does not."""
    if error.code == 403 and "exceeded quota" in error.message:
        return Outcome(EndCause.REVOKED, message=f"the namespace has no room: {error.message}")
    return Outcome(EndCause.CANNOT_START, message=f"the API server refused it: {error.message}")
