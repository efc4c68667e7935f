"""Who holds what: CPUs, memory and devices by UUID, with savepoints.

The only mutable thing in the core. A decision takes a savepoint, tries, and rolls back; nothing
that it tried remains. What is held is always derived from placements, never counted separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlsched.errors import InvariantError
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Device, Node

_Undo = tuple[str, tuple[GroupPlacement, ...], bool]


class Ledger:
    """Free and held resources of all nodes.

    Args:
        nodes: The nodes as observed; order does not matter.
        held: Placements by job id, of everything that holds something now.
    """

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        held: Mapping[str, tuple[GroupPlacement, ...]] | None = None,
    ) -> None:
        self._nodes: dict[str, Node] = {}
        self._milli_cpus: dict[str, int] = {}
        self._memory_bytes: dict[str, int] = {}
        self._free_devices: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._layers: dict[str, int] = {}
        self._empty: Ledger | None = None
        self._holders: dict[str, str] = {}
        self._held: dict[str, tuple[GroupPlacement, ...]] = {}
        self._log: list[_Undo] = []
        for node in sorted(nodes, key=lambda n: n.name):
            self.observe(node)
        for job_id, placements in (held or {}).items():
            self.take(job_id, placements)
        self._log.clear()

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes by name, in the order of their names."""
        return self._nodes

    @property
    def held(self) -> Mapping[str, tuple[GroupPlacement, ...]]:
        """Placements by the id of the job that holds them."""
        return self._held

    @property
    def empty(self) -> Ledger:
        """The same nodes with nothing held, kept up to date; callers roll back what they try.

        Cost: O(nodes) the first time.
        """
        if self._empty is None:
            self._empty = Ledger(self._nodes.values())
        return self._empty

    def observe(self, node: Node) -> None:
        """Add a node, or replace what is known of it; what jobs hold on it stays held."""
        if self._empty is not None:
            self._empty.observe(node)
        before = self._nodes.get(node.name)
        if before is not None:
            self._layers[before.layer] -= 1
        self._layers[node.layer] = self._layers.get(node.layer, 0) + 1
        if before is None:
            last = next(reversed(self._nodes), "")
            self._nodes[node.name] = node
            if node.name < last:
                self._nodes = dict(sorted(self._nodes.items()))
            used = self._used_on(node.name)
            self._milli_cpus[node.name] = node.milli_cpus - used[0]
            self._memory_bytes[node.name] = node.memory_bytes - used[1]
            self._groups[node.name] = used[2]
            self._count_devices(node)
            return
        self._nodes[node.name] = node
        self._milli_cpus[node.name] += node.milli_cpus - before.milli_cpus
        self._memory_bytes[node.name] += node.memory_bytes - before.memory_bytes
        self._count_devices(node)

    def forget(self, name: str) -> None:
        """Remove a node; placements on it stay with their jobs until these are released."""
        gone = self._nodes.pop(name, None)
        if gone is not None:
            self._layers[gone.layer] -= 1
        if self._empty is not None:
            self._empty.forget(name)

    def take(self, job_id: str, placements: tuple[GroupPlacement, ...]) -> None:
        """Give a whole gang what it was placed on.

        Raises:
            InvariantError: the job holds something already, or a device is held by another.
        """
        if job_id in self._held:
            raise InvariantError("one placement a job", f"{job_id} holds something already")
        for group in placements:
            for uuid in group.devices:
                if uuid in self._holders:
                    other = self._holders[uuid]
                    raise InvariantError("one holder a device", f"{uuid}: {other} and {job_id}")
        self._apply(job_id, placements, taking=True)
        self._log.append((job_id, placements, True))

    def release(self, job_id: str) -> tuple[GroupPlacement, ...]:
        """Free everything that a job holds; returns it (empty when it held nothing)."""
        placements = self._held.get(job_id, ())
        if job_id in self._held:
            self._apply(job_id, placements, taking=False)
            self._log.append((job_id, placements, False))
        return placements

    def savepoint(self) -> int:
        """A mark to roll back to."""
        return len(self._log)

    def rollback(self, savepoint: int) -> None:
        """Undo every `take` and `release` since the savepoint, newest first."""
        while len(self._log) > savepoint:
            job_id, placements, took = self._log.pop()
            self._apply(job_id, placements, taking=not took)

    def commit(self) -> None:
        """Forget the undo log: savepoints taken before are void."""
        self._log.clear()

    def free_milli_cpus(self, name: str) -> int:
        """Milli-CPU of a node that nobody holds; negative when the node shrank under its jobs."""
        return self._milli_cpus[name]

    def free_memory_bytes(self, name: str) -> int:
        """Memory of a node that nobody has asked for."""
        return self._memory_bytes[name]

    def free_devices(self, name: str) -> list[Device]:
        """Devices of a node that nobody holds, healthy or not, in the node's order."""
        return [d for d in self._nodes[name].devices if d.uuid not in self._holders]

    def free_device_count(self, name: str) -> int:
        """How many devices `free_devices` would give; O(1)."""
        return self._free_devices[name]

    def group_count(self, name: str) -> int:
        """How many groups of jobs are on a node; O(1)."""
        return self._groups[name]

    def layer_size(self, layer: str) -> int:
        """How many nodes are of a layer; O(1)."""
        return self._layers.get(layer, 0)

    def holder_of(self, uuid: str) -> str | None:
        """Id of the job that holds a device."""
        return self._holders.get(uuid)

    def _apply(self, job_id: str, placements: tuple[GroupPlacement, ...], *, taking: bool) -> None:
        sign = -1 if taking else 1
        for group in placements:
            if group.node in self._milli_cpus:
                self._milli_cpus[group.node] += sign * group.milli_cpus
                self._memory_bytes[group.node] += sign * group.memory_bytes
                self._groups[group.node] -= sign
            for uuid in group.devices:
                if taking:
                    self._holders[uuid] = job_id
                else:
                    self._holders.pop(uuid, None)
            if group.devices and group.node in self._nodes:
                self._count_devices(self._nodes[group.node])
        if taking:
            self._held[job_id] = placements
        else:
            self._held.pop(job_id, None)

    def _count_devices(self, node: Node) -> None:
        held = self._holders
        self._free_devices[node.name] = sum(d.uuid not in held for d in node.devices)

    def _used_on(self, name: str) -> tuple[int, int, int]:
        groups = [g for placements in self._held.values() for g in placements if g.node == name]
        cpus, memory = sum(g.milli_cpus for g in groups), sum(g.memory_bytes for g in groups)
        return cpus, memory, len(groups)
