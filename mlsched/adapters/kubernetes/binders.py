"""Binds pods of others to the nodes that the cycle chose: the Actuator of foreign gangs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError, NoAnswerError
from mlsched.adapters.kubernetes.gangs import Gangs
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.model.events import AttemptEnded, AttemptStarted, Event
from mlsched.model.jobs import EndCause, Job, Outcome

_DECIDED = re.compile("already assigned|being deleted|uid|UID")
"""What conflicts say that no other try can change. Source: Kubernetes' registry/core/pod/storage,
and the preconditions of its generic store."""

BOUND = Outcome(EndCause.EXITED, 0, message="bound")


class Binder:
    """Binds the pods of a job, and tells that it is over once all are seen bound.

    Args:
        on_bound: Told of each pod that was bound, and to which node.
        refresh: Called with the keys of pods that count as those of others from now on, before
            the end is told.
    """

    def __init__(
        self,
        api: Api,
        gangs: Gangs,
        emit: Callable[[Event], None],
        refresh: Callable[[list[str]], None],
        on_bound: Callable[[Pod, str], None] = lambda pod, node: None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._gangs = gangs
        self._emit = emit
        self._refresh = refresh
        self._on_bound = on_bound
        self._on_problem = on_problem
        self._open: dict[str, tuple[Job, dict[str, str]]] = {}
        """Jobs whose bindings were all answered, with what was wrong of which pod."""
        self._jobs_of_pods: dict[str, str] = {}
        self._pods_of_jobs: dict[str, list[str]] = {}

    async def launch(self, job: Job) -> None:
        """Bind all pods of a job."""
        pods = self._gangs.begin(job.id)
        if not pods:
            text = "its pods changed before they were bound"
            self._finish(job, Outcome(EndCause.REVOKED, message=text))
            return
        self._emit(AttemptStarted(job.id, job.attempt, 0))
        self._pods_of_jobs[job.id] = [pod.metadata.key for pod in pods]
        self._jobs_of_pods.update((pod.metadata.key, job.id) for pod in pods)
        groups = zip(pods, job.placements, strict=True)
        wrong = await asyncio.gather(*(self._bind(pod, group.node) for pod, group in groups))
        errors = {pod.metadata.key: text for pod, text in zip(pods, wrong, strict=True) if text}
        self._open[job.id] = (job, errors)
        self._settle(job.id)

    async def adopt(self, job: Job) -> None:
        """Nothing outlives a controller: bound pods count as those of others."""

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        """Bindings cannot be taken back."""

    def observe(self, pod: Pod) -> None:
        """Take note that a pod changed: the last one to be seen bound ends its job."""
        job_id = self._jobs_of_pods.get(pod.metadata.key)
        if job_id is not None:
            self._settle(job_id)

    def _settle(self, job_id: str) -> None:
        known = self._open.get(job_id)
        if known is None:
            return
        job, errors = known
        if not self._gangs.has_settled(job_id, errors):
            return
        del self._open[job_id]
        text = "; ".join(errors.values())
        self._finish(job, Outcome(EndCause.REVOKED, message=text) if errors else BOUND)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        keys = self._pods_of_jobs.pop(job.id, [])
        for key in keys:
            self._jobs_of_pods.pop(key, None)
        if outcome is BOUND:
            self._gangs.conclude(job.id)
        else:
            self._gangs.relinquish(job.id)
        self._refresh(keys)
        self._emit(AttemptEnded(job.id, job.attempt, outcome))

    async def _bind(self, pod: Pod, node: str) -> str:
        return await bind_pod(self._api, pod, node, self._on_problem, self._on_bound)


async def bind_pod(
    api: Api,
    pod: Pod,
    node: str,
    on_problem: Callable[[str], None],
    on_bound: Callable[[Pod, str], None] = lambda pod, node: None,
) -> str:
    """Bind one pod; returns what went wrong for good.

    The uid in the body is a precondition: a new pod of the same name is not bound.
    """
    metadata = pod.metadata
    path = f"/api/v1/namespaces/{metadata.namespace}/pods/{metadata.name}/binding"
    body = msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata.name, "uid": metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
    )
    try:
        await insist(lambda: _try_to_bind(api, path, body), on_problem)
    except ApiError as error:
        if error.code == 409 and "already assigned" in error.message:
            return ""
        return f"{metadata.key}: {error.message}"
    on_bound(pod, node)
    return ""


async def _try_to_bind(api: Api, path: str, body: bytes) -> bytes:
    """Somebody who writes to a pod at the same moment is no reason to give it up."""
    try:
        return await api.create(path, body)
    except ApiError as error:
        if error.code == 409 and not _DECIDED.search(error.message):
            raise NoAnswerError(f"POST {path}: {error}") from error
        raise
