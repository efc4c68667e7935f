"""Deletes pods of jobs that no record asks for: those that a late request has made.

A create that was sent before a lease ran out, or before its answer was given up, may be carried out
after the attempt has ended. Nobody waits for such a pod, and nothing else would ever end it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from mlsched.adapters.kubernetes.apis import Api
from mlsched.adapters.kubernetes.attempts import read_pod
from mlsched.adapters.kubernetes.deletions import delete_pod
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.tracks import key_of
from mlsched.runtime.tasks import Tasks


class Orphans:
    """Looks at every pod that carries the labels of a job.

    Args:
        api: Where pods are deleted.
        pods: The newest state of every pod, by key.
        owns: Whether a pod belongs to an attempt that goes on.
        is_wanted: Asks the API server whether the record of its job says so.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        api: Api,
        pods: Mapping[str, Pod],
        owns: Callable[[Pod], bool],
        is_wanted: Callable[[Pod], Awaitable[bool]],
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._pods = pods
        self._owns = owns
        self._is_wanted = is_wanted
        self._on_problem = on_problem
        self._doubted: set[str] = set()
        """Uids of pods that are looked into."""
        self._tasks = Tasks(on_problem, told=(LeaseLostError,))

    def observe(self, pod: Pod) -> None:
        """Take note of a pod; one that nobody wants is deleted."""
        uid = pod.metadata.uid
        if key_of(pod) is None or pod.metadata.deletion_timestamp is not None:
            return
        if read_pod(pod).is_over:
            return  # ended, perhaps before its phase says so: it is kept for its logs
        if uid not in self._doubted and not self._owns(pod):
            self._doubted.add(uid)
            is_due = partial(self._is_nobodys, pod)
            task = self._tasks.begin(delete_pod(self._api, pod, is_due, self._on_problem))
            task.add_done_callback(lambda _: self._doubted.discard(uid))

    async def close(self) -> None:
        """Stop what is under way."""
        await self._tasks.close()

    async def _is_nobodys(self, pod: Pod) -> bool:
        if not self._is_left(pod) or await self._is_wanted(pod) or not self._is_left(pod):
            return False
        self._on_problem(f"pod {pod.metadata.key} is deleted: no record asks for it")
        return True

    def _is_left(self, pod: Pod) -> bool:
        """Whether it still lives, and belongs to nobody."""
        newest = self._pods.get(pod.metadata.key)
        if newest is None or newest.metadata.uid != pod.metadata.uid:
            return False
        return not read_pod(newest).is_over and not self._owns(pod)
