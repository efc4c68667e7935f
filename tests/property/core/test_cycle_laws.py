"""A cycle over lanes decides what a plain look at job after job would."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mlsched.core.backlogs import Backlog, Placed
from mlsched.core.cycle import decide
from mlsched.core.feasibility import never_fits
from mlsched.core.filters import WELL
from mlsched.core.gates import own_gate, queue_gate, throttle_gate
from mlsched.core.ledger import Ledger
from mlsched.core.placement import place
from mlsched.core.policies.fifo import Fifo
from mlsched.model.events import Instant
from mlsched.model.jobs import (
    ArrayMembership,
    GroupPlacement,
    Job,
    JobState,
    ResolvedDependency,
    needs_of,
)
from mlsched.model.nodes import Node
from mlsched.model.snapshots import ClusterSnapshot
from mlsched.model.specs import JobSpec
from mlsched.testing.builders import device, job, node
from mlsched.testing.scans import place_by_scan

POLICY = Fifo()
Decision = tuple[dict[str, tuple[GroupPlacement, ...]], dict[str, str]]


def decide_plainly(snapshot: ClusterSnapshot, ledger: Ledger) -> Decision:
    """Placements, and codes of reasons: each job by itself, with full scans."""
    nodes = list(ledger.nodes.values())
    now = Ledger(nodes, ledger.held)
    placements: dict[str, tuple[GroupPlacement, ...]] = {}
    codes: dict[str, str] = {}
    blocked: Job | None = None
    shadow = Ledger()
    running = dict(snapshot.array_running)
    for one in sorted(snapshot.candidates, key=POLICY.key):
        array_id = one.array.array_id if one.array else ""
        reason = queue_gate(one, snapshot.paused_queues) or own_gate(one, snapshot)
        throttled = throttle_gate(one, running.get(array_id, 0))
        found = place_by_scan(needs_of(one), now) if not (reason or throttled) else None
        fits_ever = place_by_scan(needs_of(one), Ledger(nodes), WELL) is not None
        if reason is not None:
            codes[one.id] = reason.code
        elif found is None and not fits_ever:
            codes[one.id] = "NeverFits"
        elif throttled is not None:
            codes[one.id] = throttled.code
        elif found is None:
            codes[one.id] = "waits"
            if blocked is None and place_by_scan(needs_of(one), Ledger(nodes)) is not None:
                blocked, limit = one, POLICY.key(one)
                placed = snapshot.placed.items()
                behind = {i: p.placements for i, p in placed if POLICY.key(p) > limit}
                shadow = Ledger(nodes, behind)
        else:
            if blocked is not None:
                tried = Ledger(nodes, {**shadow.held, one.id: found})
                if place_by_scan(needs_of(blocked), tried) is None:
                    codes[one.id] = "LowerPriority"
                    continue
                shadow = tried
            placements[one.id] = found
            now.take(one.id, found)
            running[array_id] = running.get(array_id, 0) + 1
    return placements, codes


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    made = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        kinds = draw(st.lists(st.sampled_from(["T4", "H100"]), max_size=4))
        devices = tuple(
            device(f"{name}-{at}", kind, healthy=draw(st.integers(0, 5)) > 0)
            for at, kind in enumerate(kinds)
        )
        one = node(name, cpus=draw(st.sampled_from([2, 4, 8])), layer=draw(LAYERS))
        made.append(replace(one, devices=devices, schedulable=draw(st.integers(0, 5)) > 0))
    return made


LAYERS = st.sampled_from(["local", "local", "gpu"])
SHAPES = st.sampled_from(
    [
        {"gpus": 1},
        {"gpus": 2},
        {"gpus": 4},
        {"gpus": 1, "nodes": 2},
        {"gpus": 1, "gpu_model": "T4"},
        {"cpus": 1},
        {"cpus": 3},
        {"cpus": 2, "nodes": 3},
    ]
)


@st.composite
def snapshots(draw: st.DrawFn) -> tuple[ClusterSnapshot, Ledger]:
    ledger = Ledger(draw(clusters()))
    placed: dict[str, Job] = {}
    candidates: list[Job] = []
    of_array = job("", 0, **draw(SHAPES)).spec
    order = draw(st.permutations(range(draw(st.integers(1, 14)))))
    for seq in order:
        made = job(f"j{seq}", seq + 1, **draw(SHAPES), priority=draw(st.sampled_from([0, 0, 0, 5])))
        found = place(needs_of(made), ledger)
        if found is not None and draw(st.integers(0, 2)) == 0:
            ledger.take(made.id, found)
            placed[made.id] = replace(made, state=JobState.RUNNING, placements=found)
        else:
            candidates.append(_gated(draw, made, of_array))
    ledger.commit()
    snapshot = ClusterSnapshot(
        Instant(0, 0),
        tuple(candidates),
        placed,
        array_running={"array": draw(st.integers(0, 2))},
        backoff_until_ms={"j1": draw(st.integers(0, 1))},
        paused_queues=draw(st.sampled_from([frozenset(), frozenset({"night"})])),
    )
    return snapshot, ledger


def _gated(draw: st.DrawFn, made: Job, of_array: JobSpec) -> Job:
    kind = draw(st.integers(0, 8))
    if kind == 0:
        return replace(made, after=(ResolvedDependency("other", "other", "ok"),))
    if kind == 1:
        membership = ArrayMembership("array", "array", made.seq, 20, 2)
        return replace(made, spec=of_array, array=membership)
    if kind == 2:
        return replace(made, spec=replace(made.spec, queue="night"))
    return made


@settings(max_examples=400)
@given(snapshots(), st.data())
def test_a_cycle_decides_what_a_plain_look_at_every_job_would(
    found: tuple[ClusterSnapshot, Ledger], data: st.DataObject
) -> None:
    snapshot, ledger = found
    expected = decide_plainly(snapshot, ledger)
    held = dict(ledger.held)
    for kept in (0, data.draw(st.integers(0, len(snapshot.candidates)))):
        backlog = Backlog(POLICY)
        for one in snapshot.candidates[:kept]:
            if own_gate(one, snapshot) is None:
                backlog.add(one)
        candidates = tuple(one for one in snapshot.candidates if one.id not in backlog)
        placed = Placed(POLICY)
        for one in snapshot.placed.values():
            placed.put(one)
        asked = replace(snapshot, candidates=candidates, placed=placed if kept else snapshot.placed)
        plan = decide(asked, ledger, POLICY, backlog)
        assert plan.placements == expected[0]
        assert list(plan.placements) == list(expected[0])
        assert {i: _coarse(str(reason.code)) for i, reason in plan.reasons.items()} == expected[1]
        assert dict(ledger.held) == held
    for one in snapshot.candidates:
        if plan.reasons.get(one.id) is not None and plan.reasons[one.id].code == "NeverFits":
            assert never_fits(needs_of(one), Ledger(ledger.nodes.values())) is not None


def _coarse(code: str) -> str:
    room = ("WaitingForCapacity", "Fragmented", "DevicesUnhealthy", "NodesUnavailable")
    return "waits" if code in room else code
