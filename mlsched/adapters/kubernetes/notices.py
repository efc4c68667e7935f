"""Kubernetes Events: what happened to a job, for ``kubectl describe``. Told once, never retried.

They are for people: when the API server has no time for them they are dropped, and nothing waits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError, NoAnswerError
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.objects import Metadata, Pod
from mlsched.model.jobs import Job, JobState
from mlsched.model.specs import API_VERSION, KIND

WAITING_MAX = 1000
"""Events that wait to be sent; more are dropped."""

COMPONENT = "mlsched"
_WORDS = {
    JobState.STARTING: "Placed",
    JobState.RUNNING: "Started",
    JobState.SUCCEEDED: "Completed",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
    JobState.PENDING: "Requeued",
}


class Notices:
    """Sends events, one after another.

    Args:
        on_problem: Takes one line for the log, of an event that was not sent by a fault of ours.
    """

    def __init__(
        self,
        api: Api,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.dropped = 0
        self._api = api
        self._now = now
        self._on_problem = on_problem
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(WAITING_MAX)
        self._task: asyncio.Task[None] | None = None

    def tell(self, job: Job, metadata: Metadata) -> None:
        """What became of a job."""
        word = _WORDS.get(job.state)
        if word is None:
            return
        message = job.reason.message if job.reason else str(job.state)
        if job.state is JobState.STARTING:
            message = job.attempts[-1].placed_because
        element = f" of {job.name}" if job.array else ""
        kind = "Warning" if job.state is JobState.FAILED or word == "Requeued" else "Normal"
        self._post(
            KIND, API_VERSION, metadata, kind, word, f"attempt {job.attempt}{element}: {message}"
        )

    def tell_bound(self, pod: Pod, node: str) -> None:
        """Where a pod of others was placed, in the words of kube-scheduler."""
        text = f"Successfully assigned {pod.metadata.key} to {node}"
        self._post("Pod", "v1", pod.metadata, "Normal", "Scheduled", text)

    def refuse(self, pod: Pod, why: str) -> None:
        """Why a pod of others cannot be placed."""
        text = f"mlsched does not place this pod: {why}"
        self._post("Pod", "v1", pod.metadata, "Warning", "FailedScheduling", text)

    async def close(self) -> None:
        """Stop sending."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _post(
        self, kind: str, version: str, about: Metadata, level: str, word: str, message: str
    ) -> None:
        now = self._now()
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = f"{about.uid}/{word}/{message}/{now.timestamp()}"
        name = f"{about.name}.{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": about.namespace},
            "involvedObject": {
                "apiVersion": version,
                "kind": kind,
                "name": about.name,
                "namespace": about.namespace,
                "uid": about.uid,
            },
            "reason": word,
            "message": message[:1000],
            "type": level,
            "source": {"component": COMPONENT},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        path = f"/api/v1/namespaces/{about.namespace}/events"
        try:
            self._queue.put_nowait((path, msgspec.json.encode(body)))
        except asyncio.QueueFull:
            self.dropped += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while True:
            path, body = await self._queue.get()
            try:
                await self._api.create(path, body)
            except LeaseLostError:
                return
            except (ApiError, NoAnswerError):
                self.dropped += 1
            except Exception as error:  # noqa: BLE001 - one odd event must not silence the others
                self._on_problem(f"an Event was not sent: {error!r}")
