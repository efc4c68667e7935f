"""Who holds each device, and how many devices of each node nobody holds."""

from __future__ import annotations

from mlsched.model.nodes import Node


class Holders:
    """Jobs by the UUIDs of devices, whether a node has the device now or not.

    Attributes:
        first: Id of the job that holds a device; of several that were restored, the first.
        free: Devices that nobody holds, by the name of the node.
    """

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.free: dict[str, int] = {}
        self._next: dict[str, list[str]] = {}
        self._homes: dict[str, str] = {}

    def observe(self, before: Node | None, node: Node) -> None:
        """A node is there, or has changed."""
        self.forget(before)
        self._homes |= dict.fromkeys((device.uuid for device in node.devices), node.name)
        self.free[node.name] = sum(device.uuid not in self.first for device in node.devices)

    def forget(self, node: Node | None) -> None:
        """A node is gone; a device may be on another one by now."""
        if node is None:
            return
        self.free.pop(node.name, None)
        for device in node.devices:
            if self._homes.get(device.uuid) == node.name:
                del self._homes[device.uuid]

    def of(self, uuid: str) -> tuple[str, ...]:
        """Ids of all jobs that hold a device, the first one first."""
        first = self.first.get(uuid)
        return () if first is None else (first, *self._next.get(uuid, ()))

    def has(self, job_id: str, uuid: str) -> bool:
        """Whether a job holds a device, alone or beside others."""
        return self.first.get(uuid) == job_id or job_id in self._next.get(uuid, ())

    def add(self, job_id: str, uuid: str) -> str | None:
        """Let a job hold a device; the node that has one less free now."""
        if uuid in self.first:
            self._next.setdefault(uuid, []).append(job_id)
            return None
        self.first[uuid] = job_id
        return self._count(uuid, -1)

    def discard(self, job_id: str, uuid: str) -> str | None:
        """A job holds a device no more; the node that has one more free now."""
        others = self._next.get(uuid)
        if others is None:
            return self._count(uuid, 1) if self.first.pop(uuid, None) is not None else None
        if self.first[uuid] == job_id:
            self.first[uuid] = others.pop(0)
        else:
            others.remove(job_id)
        if not others:
            del self._next[uuid]
        return None

    def _count(self, uuid: str, change: int) -> str | None:
        home = self._homes.get(uuid)
        if home is not None:
            self.free[home] += change
        return home
