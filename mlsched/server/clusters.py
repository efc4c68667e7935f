"""The controller of a cluster: the same controller as on one machine, with Kubernetes ports.

Watches become events, events go through the driver, and what it decides goes out as pods, bindings
and statuses. Crash-only: everything is read anew at each start, and nothing is kept but in the API
server. What happens in one turn of the loop is folded in one step.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct

from mlsched.adapters.kubernetes.actuators import PodActuator
from mlsched.adapters.kubernetes.announcements import (
    LEASE_NAME,
    Announcement,
    write_announcement,
)
from mlsched.adapters.kubernetes.apis import ANSWER_S_MAX, Api
from mlsched.adapters.kubernetes.binders import Binder
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.gangs import Gangs, is_foreign
from mlsched.adapters.kubernetes.leases import Lease, Timing
from mlsched.adapters.kubernetes.mljobs import MLJobs
from mlsched.adapters.kubernetes.nodes import LayerRule, build_node, is_out_of_service
from mlsched.adapters.kubernetes.notices import Notices
from mlsched.adapters.kubernetes.objects import (
    POD_GROUPS,
    NodeObject,
    Pod,
    PodGroup,
    QueueObject,
)
from mlsched.adapters.kubernetes.orphans import Orphans
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.recorders import Recorder
from mlsched.adapters.kubernetes.reflectors import SILENCE_S_MAX, Reflector
from mlsched.adapters.kubernetes.slices import DRIVERS
from mlsched.adapters.kubernetes.usages import Usages
from mlsched.errors import MlschedError
from mlsched.model.events import (
    Event,
    JobRestored,
    NodeLost,
    NodeObserved,
    QueueObserved,
)
from mlsched.model.jobs import Job
from mlsched.model.specs import API_VERSION
from mlsched.runtime.controller import Controller, RetrySettings
from mlsched.runtime.driver import Driver
from mlsched.runtime.tasks import Tasks
from mlsched.server.hardware import Hardware
from mlsched.server.inboxes import Inbox

BATCH_MAX = 128
"""Statuses written at once before the pods that they allow are made."""


class ClusterSettings(Struct, frozen=True):
    """How a cluster is scheduled."""

    namespace: str = "default"
    """Where the lease is."""
    image: str = ""
    """For jobs that name none."""
    layers: tuple[LayerRule, ...] = ()
    drivers: tuple[str, ...] = DRIVERS
    """DRA drivers whose devices are GPUs."""
    device_classes: tuple[tuple[str, str], ...] = ()
    """Driver and name of its DeviceClass, where they differ."""
    timing: Timing = Timing()
    retry: RetrySettings = RetrySettings()
    silence_s_max: float = SILENCE_S_MAX
    """A watch on which nothing comes for so long is begun anew: it may be half open."""
    answer_s_max: float = ANSWER_S_MAX
    """A request that is not answered for so long is made again."""

    @property
    def announcement(self) -> Announcement:
        """What users may know of them."""
        classes = dict(self.device_classes)
        return Announcement(self.image, self.layers, self.drivers, classes)


class ClusterController:
    """Schedules one cluster for as long as it holds the lease.

    Args:
        access: Which API server, and as whom.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        access: Access,
        settings: ClusterSettings,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings = settings
        self._on_problem = on_problem
        self._lease_api = Api(access, answer_s_max=settings.answer_s_max)
        self.lease = _make_lease(self._lease_api, settings)
        self.api = Api(access, self.lease.check, settings.answer_s_max)
        self.started = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._adoptions = Tasks(on_problem)
        self._make_parts()

    def _make_parts(self) -> None:
        problem = self._on_problem
        self.controller = Controller(retry=self._settings.retry, checks=True)
        self.inbox = Inbox(self.controller, self._node_event, self._flush_gangs)
        self.notices = Notices(self.api, on_problem=problem)
        self.recorder = Recorder(
            self.api,
            epoch=lambda: self.lease.epoch,
            now_ms=_now_ms,
            on_saved=self.notices.tell,
            on_lost=self.lease.give_up,
            on_problem=problem,
        )
        self.mljobs = MLJobs(self.api, self.recorder, self._emit_of_job, _now_ms, problem)
        self.nodes = Reflector(self.api, "/api/v1/nodes", NodeObject, on_problem=problem)
        self.pods = Reflector(self.api, "/api/v1/pods", Pod, on_problem=problem)
        self.queues = Reflector(
            self.api, f"/apis/{API_VERSION}/mlqueues", QueueObject, on_problem=problem
        )
        self.pod_groups = Reflector(self.api, POD_GROUPS, PodGroup, on_problem=problem)
        self.hardware = Hardware(self.api, self.inbox.touch, self._settings.drivers, problem)
        self.actuator = PodActuator(
            self.api,
            self.pods,
            self.mljobs.owner_of,
            self.inbox.emit,
            image=self._settings.image,
            claims=self.hardware.make_claims(self._settings.device_classes),
            on_problem=problem,
        )
        self.orphans = Orphans(
            self.api, self.pods.objects, self.actuator.owns, self.mljobs.wants, problem
        )
        self.gangs = Gangs(self.mljobs.next_seq, self.notices.refuse)
        self.binder = Binder(
            self.api, self.gangs, self.inbox.emit, self._recount, self.notices.tell_bound, problem
        )
        self.usages = Usages(lambda pod: self.actuator.owns(pod) or self.gangs.owns(pod))
        self.driver = Driver(
            self.controller,
            self.recorder,
            _Router(self.actuator, self.binder),
            batch_max=BATCH_MAX,
            on_problem=problem,
        )
        self.inbox.driver = self.driver

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for the lease, then schedule until told to stop.

        Raises:
            LeaseLostError: another controller took over, or may have.
            InvariantError: a bug of ours; the next process starts from what is durable.
        """
        try:
            if not await self._acquire(stop):
                return
            await self._begin(stop)
            await self._until(stop)
        finally:
            await self._close(clean=stop.is_set())

    async def _acquire(self, stop: asyncio.Event) -> bool:
        waiting = self._begin_task(self.lease.acquire())
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._tasks.remove(waiting)
        stopping.cancel()
        if not waiting.done():
            waiting.cancel()
            return False
        waiting.result()
        return True

    async def _begin(self, stop: asyncio.Event) -> None:
        """List everything, then take over what is there, in the order in which it was made."""
        self._on_problem(f"holds the lease, epoch {self.lease.epoch}")
        self._begin_task(self.lease.hold())
        reflectors: list[Reflector[Any]] = [
            self.nodes, self.pods, self.queues, self.recorder.reflector
        ]  # fmt: skip
        if await insist(lambda: self.api.serves(POD_GROUPS), self._on_problem):
            reflectors.append(self.pod_groups)
        reflectors += await self.hardware.reflectors()
        for reflector in reflectors:
            reflector.silence_s_max = self._settings.silence_s_max
            self._begin_task(reflector.run())
        syncing = asyncio.gather(*(reflector.synced.wait() for reflector in reflectors))
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        awaited: list[asyncio.Future[Any]] = [syncing, stopping, *self._tasks]
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not syncing.done():
            syncing.cancel()
            await asyncio.gather(syncing, return_exceptions=True)
            return
        self._take_over()

    def _take_over(self) -> None:
        newest = self.mljobs.newest_epoch()
        if newest > self.lease.epoch:
            self._on_problem(f"records are of epoch {newest}: the lease was deleted meanwhile")
            self.lease.rise_above(newest)
        self.driver.start()
        self.queues.tell_all(self._observe_queue)
        self.pod_groups.tell_all(self._observe_group)
        self.recorder.reflector.tell_all(self.mljobs.observe, self.mljobs.in_order())
        self.pods.tell_all(self._observe_pod, sorted(self.pods.objects.values(), key=_creation))
        self.nodes.tell_all(self._observe_node)
        self.started.set()

    async def _until(self, stop: asyncio.Event) -> None:
        stopping = self._begin_task(stop.wait())
        breaking = self._begin_task(self.driver.broken.wait())
        losing = self._begin_task(self.lease.lost.wait())
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping, breaking, losing}:
            task.result()
        if losing in done:
            self.lease.check()
        if breaking in done:
            raise MlschedError("nothing can be decided or recorded any more: see the lines before.")

    async def _close(self, *, clean: bool) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._adoptions.close()
        await self.driver.close()
        await self.actuator.close()
        self.hardware.close()
        await self.orphans.close()
        await self.recorder.close()
        await self.notices.close()
        if clean:
            await self.lease.release()
        await self.api.close()
        await self._lease_api.close()

    def _begin_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task

    def _emit_of_job(self, event: Event) -> None:
        """As `Inbox.emit`; pods of a job that is placed already are ours from now on."""
        self.inbox.emit(event)
        if isinstance(event, JobRestored) and event.job.state.is_placed:
            self.actuator.track(event.job)
            self._adoptions.begin(self._adopt(event.job))

    async def _adopt(self, job: Job) -> None:
        await self.started.wait()
        await self.driver.adopt(job)

    def _observe_queue(self, before: QueueObject | None, after: QueueObject | None) -> None:
        one = after or before
        if one is not None:
            paused = after is not None and after.spec.paused
            self.inbox.emit(QueueObserved(one.metadata.name, paused, one.metadata.namespace))

    def _observe_group(self, before: PodGroup | None, after: PodGroup | None) -> None:
        self.gangs.observe_group(before, after)
        self.inbox.open_soon()

    def _observe_pod(self, before: Pod | None, after: Pod | None) -> None:
        try:
            self.actuator.observe(before, after)
            self.gangs.observe(before, after)
            pod = after or before
            if pod is not None:
                self.binder.observe(pod)
            if after is not None:
                self.orphans.observe(after)
        finally:
            self._count(before, after)  # what it takes from its node it takes, however odd it is
            self.inbox.open_soon()

    def _recount(self, keys: list[str]) -> None:
        """Pods whose owner has changed count otherwise than before."""
        for key in keys:
            pod = self.pods.objects.get(key)
            if pod is not None:
                self._count(None, pod)

    def _count(self, before: Pod | None, after: Pod | None) -> None:
        node = self.usages.observe(before, after)
        if node:
            self.inbox.touch(node)

    def _observe_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        one = after or before
        if one is None:
            return
        self.inbox.touch(one.metadata.name)
        if after is None:
            self.actuator.lose_node(one.metadata.name, f"node {one.metadata.name} was removed")
        elif is_out_of_service(after):
            text = f"node {one.metadata.name} was declared out of service"
            self.actuator.lose_node(one.metadata.name, text)
        self.inbox.open_soon()

    def _flush_gangs(self) -> list[Event]:
        return self.gangs.flush()

    def _node_event(self, name: str, is_held: Callable[[str], bool]) -> Event:
        node = self.nodes.objects.get(name)
        if node is None:
            return NodeLost(name)
        try:
            gpus = self.hardware.of(name)
            built = build_node(node, self.usages.of(name), is_held, self._settings.layers, gpus)
        except Exception as error:  # noqa: BLE001 - one odd node must not stop a cluster
            self._on_problem(f"node {name} is left alone: {error!r}")
            return NodeLost(name)
        return NodeObserved(built)


class _Router:
    """Sends each attempt to whoever can carry it out."""

    def __init__(self, pods: PodActuator, foreign: Binder) -> None:
        self._pods = pods
        self._foreign = foreign

    async def launch(self, job: Job) -> None:
        await (self._foreign if is_foreign(job.id) else self._pods).launch(job)

    async def adopt(self, job: Job) -> None:
        await (self._foreign if is_foreign(job.id) else self._pods).adopt(job)

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        target = self._foreign if is_foreign(job_id) else self._pods
        await target.stop(job_id, attempt, grace_s)


def _make_lease(api: Api, settings: ClusterSettings) -> Lease:
    """The lease that this process asks for, which tells its settings."""
    identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    told = write_announcement(settings.announcement)
    return Lease(api, settings.namespace, LEASE_NAME, identity, settings.timing, told)


def _creation(pod: Pod) -> tuple[str, int]:
    return pod.metadata.creation_timestamp, pod.metadata.version


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
