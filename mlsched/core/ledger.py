"""Who holds what: CPUs, memory and devices by UUID, with savepoints.

The only mutable thing in the core. A decision takes a savepoint, tries, and rolls back; nothing
that it tried remains. What is held is always derived from placements, never counted separately.
Rankings, tallies and the twins of a ledger are derived from it and follow its journals.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from mlsched.core.filters import AS_IS, View, is_troubled
from mlsched.core.holders import Holders
from mlsched.core.journals import Journal
from mlsched.core.rankings import Ranking
from mlsched.core.tallies import Tally
from mlsched.errors import InvariantError
from mlsched.model.jobs import GroupPlacement
from mlsched.model.nodes import Device, Node
from mlsched.model.reasons import Reason
from mlsched.model.resources import GroupNeed

KEPT_MAX = 64
"""Rankings, and tallies, that a ledger keeps; each has about 200 B a node."""

_Undo = tuple[str, tuple[GroupPlacement, ...], bool]


class Ledger:
    """Free and held resources of all nodes.

    Args:
        nodes: The nodes as observed; order does not matter.
        held: Placements by job id, of everything that holds something now, by its record.

    Attributes:
        changed_nodes: Names of nodes, in the order of their changes.
        troubled: Names of nodes that take no jobs now, or have a device that is not healthy.
        verdicts: What was found out from the nodes alone; emptied when one changes.
    """

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        held: Mapping[str, tuple[GroupPlacement, ...]] | None = None,
    ) -> None:
        self.changed_nodes = Journal()
        self._changed_jobs = Journal()
        self._nodes: dict[str, Node] = {}
        self._is_sorted = True
        self._used: dict[str, _Use] = {}
        self._holders = Holders()
        self._layers: dict[str, int] = {}
        self.troubled: set[str] = set()
        self.verdicts: dict[Hashable, Reason | None] = {}
        self._device_jobs = 0
        self._held: dict[str, tuple[GroupPlacement, ...]] = {}
        self._log: list[_Undo] = []
        self._rankings: dict[tuple[GroupNeed, View], Ranking] = {}
        self._tallies: dict[tuple[GroupNeed, ...], Tally] = {}
        self._empty: Ledger | None = None
        self._mirror: Ledger | None = None
        self._mirrored: tuple[Hashable, int] = (None, -1)
        for node in sorted(nodes, key=lambda n: n.name):
            self.observe(node)
        for job_id, placements in (held or {}).items():
            self.restore(job_id, placements)
        self._log.clear()

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes by name, in the order of their names."""
        if not self._is_sorted:
            self._nodes = dict(sorted(self._nodes.items()))
            self._is_sorted = True
        return self._nodes

    @property
    def held(self) -> Mapping[str, tuple[GroupPlacement, ...]]:
        """Placements by the id of the job that holds them."""
        return self._held

    def observe(self, node: Node) -> None:
        """Add a node, or replace what is known of it; what jobs hold on it stays held."""
        name = node.name
        before = self._nodes.get(name)
        if before is not None:
            self._layers[before.layer] -= 1
        elif self._nodes and name < next(reversed(self._nodes)):
            self._is_sorted = False
        self._nodes[name] = node
        self._layers[node.layer] = self._layers.get(node.layer, 0) + 1
        (self.troubled.add if is_troubled(node) else self.troubled.discard)(name)
        self._used.setdefault(name, _Use())
        self._holders.observe(before, node)
        self._note_node(name)
        for twin in self._twins():
            twin.observe(node)

    def forget(self, name: str) -> None:
        """Remove a node; placements on it stay with their jobs until these are released."""
        gone = self._nodes.pop(name, None)
        self._holders.forget(gone)
        if gone is not None:
            self._layers[gone.layer] -= 1
        self.troubled.discard(name)
        self._note_node(name)
        for twin in self._twins():
            twin.forget(name)

    def take(self, job_id: str, placements: tuple[GroupPlacement, ...]) -> None:
        """Give a whole gang what it was placed on.

        Raises:
            InvariantError: the job holds something already, or a device is held by another.
        """
        for group in placements:
            for uuid in group.devices:
                other = self._holders.first.get(uuid)
                if other is not None:
                    raise InvariantError("one holder a device", f"{uuid}: {other} and {job_id}")
        self.restore(job_id, placements)

    def restore(self, job_id: str, placements: tuple[GroupPlacement, ...]) -> None:
        """Give a job what its record says, also where the record of another says the same.

        That is what a crash leaves which came between the record of an end and that of what started
        in its place: such a device is free once all of them have ended.

        Raises:
            InvariantError: the job holds something already.
        """
        if job_id in self._held:
            raise InvariantError("one placement a job", f"{job_id} holds something already")
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

    def find(self, name: str) -> Node | None:
        """A node by its name."""
        return self._nodes.get(name)

    def free_milli_cpus(self, name: str) -> int:
        """Milli-CPU of a node that nobody holds; negative when the node shrank under its jobs."""
        return self._nodes[name].milli_cpus - self._used[name].milli_cpus

    def free_memory_bytes(self, name: str) -> int:
        """Memory of a node that nobody has asked for."""
        return self._nodes[name].memory_bytes - self._used[name].memory_bytes

    def free_devices(self, name: str) -> list[Device]:
        """Devices of a node that nobody holds, healthy or not, in the node's order."""
        return [d for d in self._nodes[name].devices if d.uuid not in self._holders.first]

    def free_device_count(self, name: str) -> int:
        """How many devices `free_devices` would give; O(1)."""
        return self._holders.free[name]

    def group_count(self, name: str) -> int:
        """How many groups of jobs are on a node; O(1)."""
        return self._used[name].groups

    def layer_size(self, layer: str) -> int:
        """How many nodes are of a layer; O(1)."""
        return self._layers.get(layer, 0)

    def holder_of(self, uuid: str) -> str | None:
        """Id of the job that holds a device; of several that were restored, the first."""
        return self._holders.first.get(uuid)

    def holders_of(self, uuid: str) -> tuple[str, ...]:
        """Ids of all jobs that hold a device: more than one only after a restart."""
        return self._holders.of(uuid)

    def is_held_by(self, uuid: str, job_id: str) -> bool:
        """Whether a job holds a device, alone or beside others."""
        return self._holders.has(job_id, uuid)

    @property
    def device_job_count(self) -> int:
        """How many jobs hold devices; O(1)."""
        return self._device_jobs

    @property
    def held_device_count(self) -> int:
        """How many devices are held, those that vanished included; O(1)."""
        return len(self._holders.first)

    def has_room_for(self, placements: tuple[GroupPlacement, ...]) -> bool:
        """Whether all groups of a placement could be taken as they are."""
        cpus: dict[str, int] = {}
        memory: dict[str, int] = {}
        groups: dict[str, int] = {}
        for group in placements:
            name = group.node
            if name not in self._nodes or any(
                uuid in self._holders.first for uuid in group.devices
            ):
                return False
            cpus[name] = cpus.get(name, 0) + group.milli_cpus
            memory[name] = memory.get(name, 0) + group.memory_bytes
            groups[name] = groups.get(name, 0) + 1
        return all(
            self.free_milli_cpus(name) >= cpus[name]
            and self.free_memory_bytes(name) >= memory[name]
            and self._has_room_for_groups(name, groups[name])
            for name in groups
        )

    def _has_room_for_groups(self, name: str, count: int) -> bool:
        most = self._nodes[name].pods_max
        return not most or self.group_count(name) + count <= most

    def ranking(self, need: GroupNeed, view: View = AS_IS) -> Ranking:
        """Nodes in the order in which a need would take them."""
        found = self._rankings.pop((need, view), None) or Ranking(need, view)
        self._rankings[need, view] = found
        if len(self._rankings) > KEPT_MAX:
            del self._rankings[next(iter(self._rankings))]
        return found

    def tally(self, needs: tuple[GroupNeed, ...]) -> Tally:
        """What there is, and is free, for any of these needs."""
        found = self._tallies.pop(needs, None) or Tally(needs)
        self._tallies[needs] = found
        if len(self._tallies) > KEPT_MAX:
            del self._tallies[next(iter(self._tallies))]
        found.follow(self)
        return found

    @property
    def empty(self) -> Ledger:
        """The same nodes with nothing held, kept up to date; callers roll back what they try.

        Cost: O(nodes) the first time.
        """
        if self._empty is None:
            self._empty = Ledger(self._nodes.values())
        return self._empty

    def mirror(
        self, key: Hashable, keeps: Callable[[str], bool], kept: Callable[[], Iterable[str]]
    ) -> Ledger:
        """The same nodes, held by some jobs only; callers roll back what they try.

        Args:
            key: Stands for ``keeps``: as long as it is the same, only what changed is looked at.
            keeps: Whether a job is one of them.
            kept: All of them; called when the key is another.
        """
        mirror = self._mirror = self._mirror or Ledger(self._nodes.values())
        before, position = self._mirrored
        changed = self._changed_jobs.since(position) if before == key else None
        if changed is None:
            changed = dict.fromkeys((*mirror.held, *kept()))
        for job_id in changed:
            wanted = self._held.get(job_id)
            if wanted is not None and not keeps(job_id):
                wanted = None
            if mirror.held.get(job_id) != wanted:
                mirror.release(job_id)
                if wanted is not None:
                    mirror.restore(job_id, wanted)
        mirror.commit()
        self._mirrored = (key, self._changed_jobs.position)
        return mirror

    def _twins(self) -> Iterable[Ledger]:
        return (twin for twin in (self._empty, self._mirror) if twin is not None)

    def _note_node(self, name: str) -> None:
        self.verdicts.clear()
        kept = self.changed_nodes
        kept.entries_max = max(kept.entries_max, 4 * len(self._nodes))
        kept.add(name)

    def _apply(self, job_id: str, placements: tuple[GroupPlacement, ...], *, taking: bool) -> None:
        sign = 1 if taking else -1
        count = self._holders.add if taking else self._holders.discard
        for group in placements:
            name = group.node
            use = self._used.get(name)
            if use is None:
                use = self._used[name] = _Use()
            use.milli_cpus += sign * group.milli_cpus
            use.memory_bytes += sign * group.memory_bytes
            use.groups += sign
            for uuid in group.devices:
                home = count(job_id, uuid)
                if home is not None and home != name:
                    self.changed_nodes.add(home)
            self.changed_nodes.add(name)
        self._device_jobs += sign * any(group.devices for group in placements)
        if taking:
            self._held[job_id] = placements
        else:
            self._held.pop(job_id, None)
        self._changed_jobs.add(job_id)


class _Use:
    """What jobs hold on one node, whether the node is known or not."""

    __slots__ = ("groups", "memory_bytes", "milli_cpus")

    def __init__(self) -> None:
        self.milli_cpus = 0
        self.memory_bytes = 0
        self.groups = 0
