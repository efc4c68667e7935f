"""Whatever happens to a ledger, its rankings and tallies say what a look at every node would."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlsched.core import ledger as ledgers
from mlsched.core.filters import AS_IS, AVAILABLE, WELL, admits
from mlsched.core.journals import Journal
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.core.tallies import Amounts, Tally
from mlsched.model.nodes import NO_PODS, Node, Taint
from mlsched.model.resources import GroupNeed
from mlsched.model.specs import Toleration
from mlsched.testing.builders import device
from mlsched.testing.scans import place_by_scan
from mlsched.units import GIB

NEEDS = (
    GroupNeed(1000, 0, 0),
    GroupNeed(2000, GIB, 1),
    GroupNeed(1000, 0, 2, gpu_model="T4"),
    GroupNeed(1000, 0, 1, whole_memory=True),
    GroupNeed(1000, 0, 1, layer="gpu"),
    GroupNeed(1000, 0, 0, selector=(("zone", "a"),)),
    GroupNeed(1000, 0, 1, tolerations=(Toleration("", "Exists"),)),
)
gangs = st.lists(st.sampled_from(NEEDS), min_size=1, max_size=4)
names = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    name = draw(names)
    kinds = draw(st.lists(st.sampled_from(["T4", "H100"]), max_size=4))
    devices = tuple(
        device(f"{name}-{at}", kind, healthy=draw(st.integers(0, 4)) > 0)
        for at, kind in enumerate(kinds)
    )
    effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
    keys = ["dedicated", "node.kubernetes.io/not-ready"]
    taint = st.builds(Taint, st.sampled_from(keys), st.just(""), st.sampled_from(effects))
    return Node(
        name,
        draw(st.sampled_from([1000, 4000, 9000])),
        4 * GIB,
        devices,
        layer=draw(st.sampled_from(["local", "gpu", "data"])),
        schedulable=draw(st.integers(0, 4)) > 0,
        labels=draw(st.sampled_from([{}, {"zone": "a"}])),
        taints=tuple(draw(st.lists(taint, max_size=1))),
        pods_max=draw(st.sampled_from([0, 0, 2, NO_PODS])),
    )


class LedgerMachine(RuleBasedStateMachine):
    """Nodes come, change and go; gangs take, release and roll back."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.ledger.changed_nodes = Journal(6)
        self.count = 0

    def take(self, needs: list[GroupNeed]) -> None:
        found = place(needs, self.ledger)
        if found is not None:
            self.count += 1
            self.ledger.take(f"j{self.count}", found)

    @rule(node=nodes())
    def observe(self, node: Node) -> None:
        self.ledger.observe(node)

    @rule(name=names)
    def forget(self, name: str) -> None:
        self.ledger.forget(name)

    @rule(needs=gangs)
    def start(self, needs: list[GroupNeed]) -> None:
        self.take(needs)
        self.ledger.commit()

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.ledger.held:
            self.ledger.release(data.draw(st.sampled_from(sorted(self.ledger.held))))
            self.ledger.commit()

    @rule(tries=st.lists(gangs, max_size=3), data=st.data())
    def try_and_roll_back(self, tries: list[list[GroupNeed]], data: st.DataObject) -> None:
        savepoint = self.ledger.savepoint()
        for needs in tries:
            self.take(needs)
            if self.ledger.held and data.draw(st.booleans()):
                self.ledger.release(min(self.ledger.held))
        self.ledger.rollback(savepoint)

    @rule(needs=gangs, view=st.sampled_from([AS_IS, AVAILABLE, WELL]))
    def place_as_a_scan_would(self, needs: list[GroupNeed], view: object) -> None:
        assert place(needs, self.ledger, view) == place_by_scan(needs, self.ledger, view)

    @rule(need=st.sampled_from(NEEDS))
    def place_on_the_empty_nodes_as_a_scan_would(self, need: GroupNeed) -> None:
        bare = Ledger(self.ledger.nodes.values())
        assert place((need,), self.ledger.empty) == place_by_scan((need,), bare)
        assert dict(self.ledger.empty.held) == {}

    @rule(odd=st.booleans())
    def mirror_only_some_jobs(self, odd: bool) -> None:
        def keeps(job_id: str) -> bool:
            return int(job_id[1:]) % 2 == odd

        mirror = self.ledger.mirror(odd, keeps, lambda: filter(keeps, self.ledger.held))
        assert dict(mirror.held) == {i: p for i, p in self.ledger.held.items() if keeps(i)}
        assert mirror.nodes == self.ledger.nodes
        assert place(NEEDS[:2], mirror) == place_by_scan(NEEDS[:2], mirror)

    @rule(needs=st.lists(st.sampled_from(NEEDS), min_size=1, max_size=2, unique=True))
    def tally_as_a_scan_would(self, needs: list[GroupNeed]) -> None:
        fresh = Tally(tuple(needs))
        fresh.follow(Ledger(self.ledger.nodes.values(), self.ledger.held))
        kept = self.ledger.tally(tuple(needs))
        assert [getattr(kept.total, name) for name in Amounts.__slots__] == [
            getattr(fresh.total, name) for name in Amounts.__slots__
        ]
        count = sum(
            any(admits(need, node, WELL) for need in needs) for node in self.ledger.nodes.values()
        )
        assert kept.total.nodes == count
        if kept.total.gpus_free > kept.total.gpus_usable:
            assert kept.first_sick() == fresh.first_sick()

    @invariant()
    def what_is_free_is_what_is_not_held(self) -> None:
        held = [group for groups in self.ledger.held.values() for group in groups]
        for name, node in self.ledger.nodes.items():
            cpus = sum(group.milli_cpus for group in held if group.node == name)
            assert self.ledger.free_milli_cpus(name) == node.milli_cpus - cpus
            assert self.ledger.free_device_count(name) == len(self.ledger.free_devices(name))
            assert self.ledger.group_count(name) == sum(group.node == name for group in held)
        assert list(self.ledger.nodes) == sorted(self.ledger.nodes)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=80, stateful_step_count=40)


def test_a_ledger_keeps_a_bounded_number_of_rankings_and_tallies() -> None:
    ledger = Ledger()
    for index in range(3 * ledgers.KEPT_MAX):
        need = GroupNeed(index + 1, 0, 0)
        ledger.ranking(need)
        ledger.tally((need,))
    assert len(ledger._rankings) == ledgers.KEPT_MAX
    assert len(ledger._tallies) == ledgers.KEPT_MAX


def test_a_journal_tells_each_change_once_or_that_it_forgot() -> None:
    journal = Journal(4)
    start = journal.position
    for name in "aba":
        journal.add(name)
    assert list(journal.since(start) or ()) == ["a", "b"]
    assert journal.since(journal.position) == []
    for name in "cde":
        journal.add(name)
    assert journal.since(start) is None
    assert list(journal.since(journal.position - 2) or ()) == ["d", "e"]
