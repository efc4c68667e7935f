"""The actuator of one machine: gives each job the environment that it was submitted with."""

from __future__ import annotations

from msgspec.structs import replace

from mlsched.adapters.local import LocalNode
from mlsched.adapters.store import Store
from mlsched.model.jobs import Job


class Launcher:
    """Puts stored environments under the specs of jobs, and hands them to the local node."""

    def __init__(self, node: LocalNode, store: Store) -> None:
        self._node = node
        self._store = store

    async def launch(self, job: Job) -> None:
        """Start an attempt; ``spec.env`` wins over the submitting shell's environment."""
        below = await self._store.environment(job.environment_id)
        spec = replace(job.spec, env={**below, **job.spec.env})
        await self._node.launch(replace(job, spec=spec))

    async def adopt(self, job: Job) -> None:
        """Find what became of an attempt of the service before this one."""
        await self._node.adopt(job)

    async def stop(self, job_id: str, attempt: int, grace_s: int) -> None:
        """Ask an attempt to end."""
        await self._node.stop(job_id, attempt, grace_s)
