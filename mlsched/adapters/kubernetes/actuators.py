"""Starts and stops attempts as pods, and tells from the pods what became of them.

All writes may be repeated: pods have names that only one attempt has, and are deleted by uid. What
the API server answered last is kept in the reflector of pods, which is the only source of events.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from mlsched.adapters.kubernetes.apis import Api
from mlsched.adapters.kubernetes.claims import Claims, find_unbound, with_claim
from mlsched.adapters.kubernetes.creations import Creator
from mlsched.adapters.kubernetes.deletions import delete_named, delete_pod
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.pods import (
    Owner,
    build_pod,
    build_secret,
    build_service,
    is_gang,
    pod_name,
    service_name,
)
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.adapters.kubernetes.tracks import Key, Track, key_of, key_of_attempt
from mlsched.core.environments import GANG_TOKEN_BYTES
from mlsched.errors import SpecError
from mlsched.model.events import AttemptEnded, AttemptStarted, AttemptStuck, Event
from mlsched.model.jobs import EndCause, Enforcement, Job, JobState, Outcome
from mlsched.runtime.tasks import Tasks

TROUBLE_S_MAX = 300.0
"""How long an image may not come, or a container not be made, before the attempt has failed."""

STUCK_S = 60.0
"""Beyond its grace, before a pod that was deleted and still lives is called stuck (F24)."""

ENFORCEMENT = Enforcement(memory="kubelet", cpus="kubelet")


class PodActuator:
    """The Actuator of MLJobs.

    Args:
        api: Where pods are made.
        pods: The copy of all pods; `observe` must be told of its changes.
        find_owner: The MLJob of a job; None when it is gone.
        emit: Takes the events.
        image: For jobs that name none.
        claims: Starts pods on nodes whose GPUs a DRA driver publishes.
        on_problem: Takes one line for the log.
    """

    def __init__(  # noqa: PLR0913 - one argument a part that it works with
        self,
        api: Api,
        pods: Reflector[Pod],
        find_owner: Callable[[str], Owner | None],
        emit: Callable[[Event], None],
        *,
        image: str = "",
        claims: Claims | None = None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._pods = pods
        self._find_owner = find_owner
        self._emit = emit
        self._image = image
        self._claims = claims
        self._creator = Creator(api, pods, on_problem)
        self._on_problem = on_problem
        self._tracks: dict[Key, Track] = {}
        self._keys: dict[tuple[str, int], Key] = {}
        self._timers: dict[Key, list[asyncio.TimerHandle]] = {}
        self._tasks = Tasks(on_problem, told=(LeaseLostError,))

    async def launch(self, job: Job) -> None:
        """Create the pods of an attempt that are not there; any end comes as an event."""
        track = self.track(job)
        if track is None or track.has_ended or track.verdict is not None:
            return
        track.is_creating = True
        try:
            await self._create(track)
            if self._claims is not None:
                await self._claims.start_all(track, self._pods)
        finally:
            track.is_creating = False
        self._delete_if_ruled(track)
        self._look(track)

    async def adopt(self, job: Job) -> None:
        """Make whole an attempt that an earlier controller began, and whose pods are known by now.

        What its pods say comes first: where one has failed or is being deleted, those that are
        missing were deleted after it, and must not start once more. An attempt that is not
        tracked any more has ended.
        """
        track = self._find(job.id, job.attempt)
        if track is None:
            return
        self._look(track)
        if track.has_ended or track.verdict is not None:
            return
        if track.missing and (job.state is JobState.RUNNING or track.is_being_deleted):
            name = pod_name(job, track.owner, track.missing[0])
            text = f"its pod {name} was deleted while no controller ran"
            track.rule(Outcome(EndCause.DELETED, message=text))
            self._delete_if_ruled(track)
            self._look(track)
        elif (track.missing or find_unbound(track, self._pods)) and not job.cancel_requested:
            await self.launch(job)

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        """Delete the pods of an attempt; one that was never launched ends at once."""
        track = self._find(job_id, attempt)
        if track is None:
            text = "stopped before anything was started"
            self._emit(AttemptEnded(job_id, attempt, Outcome(EndCause.REVOKED, message=text)))
            return
        track.grace_s = grace_s
        track.rule(Outcome(EndCause.STOPPED, 143, 15, message="was asked to stop"))
        self._delete_if_ruled(track)
        self._look(track)

    def track(self, job: Job) -> Track | None:
        """Count the pods of an attempt as ours from now on; None when its MLJob is gone."""
        known = self._find(job.id, job.attempt)
        if known is not None:
            return known
        owner = self._find_owner(job.id)
        if owner is None:
            text = "its MLJob was deleted, or its status cannot be written"
            self._emit(AttemptEnded(job.id, job.attempt, Outcome(EndCause.REVOKED, message=text)))
            return None
        key = key_of_attempt(job, owner)
        track = self._tracks[key] = Track(job, owner)
        self._keys[job.id, job.attempt] = key
        for group in range(track.groups):
            pod = self._pods.objects.get(track.pod_key(group))
            if pod is not None and key_of(pod) == key:
                track.note(pod, is_gone=False)
        return track

    def owns(self, pod: Pod) -> bool:
        """Whether a pod belongs to an attempt that has not ended: the ledger counts it already."""
        return key_of(pod) in self._tracks

    def observe(self, before: Pod | None, after: Pod | None) -> None:
        """Take note of a change of a pod."""
        pod = after or before
        key = key_of(pod) if pod is not None else None
        track = self._tracks.get(key) if key is not None else None
        if pod is not None and track is not None:
            track.note(pod, is_gone=after is None)
            self._look(track)

    def lose_node(self, name: str, why: str) -> None:
        """End what had pods on a node that is gone for good."""
        for track in list(self._tracks.values()):
            placed = enumerate(track.job.placements)
            lost = [g for g, p in placed if p.node == name and not track.is_over(g)]
            if lost:
                self._delete(track, lost, grace_s=0)
                track.lose(lost, why)
                self._delete_if_ruled(track)
                self._look(track)

    async def close(self) -> None:
        """Stop what is under way; pods go on."""
        for key in list(self._timers):
            self._cancel_timers(key)
        await self._tasks.close()

    def _find(self, job_id: str, attempt: int) -> Track | None:
        key = self._keys.get((job_id, attempt))
        return self._tracks.get(key) if key is not None else None

    def _look(self, track: Track) -> None:
        """Tell what is new of an attempt, and do what follows from it."""
        if track.has_ended:
            return
        found = track.decide()
        job = track.job
        if found.started_at_ms is not None:
            self._emit(AttemptStarted(job.id, job.attempt, found.started_at_ms, ENFORCEMENT))
        if found.deletes:
            self._delete_if_ruled(track)
        if found.trouble is not None:
            self._wait_for_cure(track)
        if found.ended is not None:
            self._end(track, found.ended)

    def _wait_for_cure(self, track: Track) -> None:
        """Give pods that cannot start some time."""
        key = key_of_attempt(track.job, track.owner)
        if key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = [loop.call_later(TROUBLE_S_MAX, self._give_up, track)]

    def _give_up(self, track: Track) -> None:
        self._timers.pop(key_of_attempt(track.job, track.owner), None)
        trouble = track.trouble()
        if trouble is not None and not track.has_ended:
            track.rule(trouble)
            self._delete_if_ruled(track)
            self._look(track)

    def _end(self, track: Track, outcome: Outcome) -> None:
        job = track.job
        key = self._keys.pop((job.id, job.attempt))
        del self._tracks[key]
        self._cancel_timers(key)
        if job.spec.gang_token:
            namespace, name = track.owner.namespace, service_name(job, track.owner)
            path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
            self._tasks.begin(delete_named(self._api, path, self._on_problem))
        if not outcome.ended_at_ms:
            outcome = replace(outcome, ended_at_ms=time.time_ns() // 1_000_000)
        self._emit(AttemptEnded(job.id, job.attempt, outcome))

    def _cancel_timers(self, key: Key) -> None:
        for timer in self._timers.pop(key, ()):
            timer.cancel()

    async def _create(self, track: Track) -> None:
        job, owner = track.job, track.owner
        now_s = time.time_ns() // 1_000_000_000
        try:
            bodies = [
                with_claim(build_pod(job, owner, group, now_s, self._image), job.placements[group])
                for group in track.missing
            ]
        except SpecError as error:
            text = f"{error.message} {error.hint}".strip()
            track.rule(Outcome(EndCause.CANNOT_START, message=text))
            return
        if job.spec.gang_token and len(bodies) == track.groups:
            # Made before the first pod: where one was seen, a new token would be a second one.
            token = secrets.token_hex(GANG_TOKEN_BYTES)
            await self._creator.create(track, "secrets", build_secret(job, owner, token))
        if is_gang(job) and track.verdict is None:
            await self._creator.create(track, "services", build_service(job, owner))
        if track.verdict is None:
            await asyncio.gather(*(self._creator.create(track, "pods", body) for body in bodies))

    def _delete_if_ruled(self, track: Track) -> None:
        """Delete what still runs of an attempt whose end is decided."""
        if track.verdict is not None:
            left = [group for group in range(track.groups) if not track.is_over(group)]
            self._delete(track, left, track.grace_s)

    def _delete(self, track: Track, groups: Iterable[int], grace_s: int) -> None:
        key = key_of_attempt(track.job, track.owner)
        for group in groups:
            pod = self._pods.objects.get(track.pod_key(group))
            if pod is not None and key_of(pod) == key and not pod.is_over:
                self._tasks.begin(self._delete_one(pod, grace_s))
                loop = asyncio.get_running_loop()
                timer = loop.call_later(grace_s + STUCK_S, self._tell_stuck, track, pod)
                self._timers.setdefault(key, []).append(timer)

    async def _delete_one(self, pod: Pod, grace_s: int) -> None:
        key, uid = pod.metadata.key, pod.metadata.uid

        async def is_due() -> bool:
            left = self._pods.objects.get(key)
            return left is not None and left.metadata.uid == uid and not left.is_over

        if await delete_pod(self._api, pod, is_due, self._on_problem, grace_s):
            self._pods.note_gone(key, uid, 0)

    def _tell_stuck(self, track: Track, pod: Pod) -> None:
        if not track.has_ended:
            text = (
                f"pod {pod.metadata.name} on {pod.spec.node_name} was deleted and does not end:"
                " the job keeps what it holds until it does, or its node is gone"
            )
            self._emit(AttemptStuck(track.job.id, track.job.attempt, (), text))
