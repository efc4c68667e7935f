"""Why a job is where it is, and what would start it now, by the code that places jobs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mlsched.core.cycle import decide, trial
from mlsched.core.devices import group_by_kind
from mlsched.core.feasibility import never_fits
from mlsched.core.filters import OPEN_LAYERS
from mlsched.core.gates import dependency_failed, lost_dependency
from mlsched.core.ledger import Ledger
from mlsched.core.policies import Policy
from mlsched.model.jobs import GroupPlacement, Job, JobState, count_gpus, needs_of
from mlsched.model.reasons import Reason, ReasonCode
from mlsched.model.resources import need_of, tasks_per_group
from mlsched.model.snapshots import ClusterSnapshot
from mlsched.model.specs import JobSpec
from mlsched.units import format_cpus

_Change = tuple[str, JobSpec]
"""What to write, and the request that it makes."""


class Explanation(Struct, frozen=True):
    """The one binding reason, its evidence in sentences, and what would start the job now."""

    reason: Reason
    details: tuple[str, ...] = ()
    unblocks: tuple[str, ...] = ()
    """Flags or actions, each tried by the placement code: with any one of them it would start."""


class Preview(Struct, frozen=True):
    """What would become of a job if it were submitted now."""

    placements: tuple[GroupPlacement, ...] = ()
    reason: Reason | None = None
    """None when it would start at once."""


def preview(job: Job, snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> Preview:
    """The decision on one more job, nothing stored: what ``--dry-run`` shows."""
    never = never_fits(needs_of(job), ledger)
    if never is not None:
        return Preview(reason=never)
    lost = lost_dependency(job, snapshot.states)
    if lost is not None:
        return Preview(reason=dependency_failed(lost.name))
    plan = trial(job, snapshot, ledger, policy)
    if job.id in plan.placements:
        return Preview(plan.placements[job.id])
    return Preview(reason=plan.reasons[job.id])


def explain(job: Job, snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> Explanation:
    """Explain a job of any state; ``snapshot.candidates`` holds all pending jobs."""
    if job.state is not JobState.PENDING:
        reason = job.reason or Reason(ReasonCode.PENDING_EVALUATION, "not looked at yet")
        return Explanation(reason, tuple(_history(job)))
    plan = decide(snapshot, ledger, policy)
    if job.id in plan.placements:
        return Explanation(Reason(ReasonCode.STARTING, "fits now and starts in this cycle"))
    reason = plan.reasons.get(job.id) or Reason(ReasonCode.PENDING_EVALUATION, "not looked at yet")
    details = (*_position(job, snapshot, policy), *_history(job))
    return Explanation(reason, details, tuple(_unblocks(job, snapshot, ledger, policy)))


def _position(job: Job, snapshot: ClusterSnapshot, policy: Policy) -> list[str]:
    key = policy.key(job)
    ahead = [other for other in snapshot.candidates if policy.key(other) < key]
    if not ahead:
        return ["it is the first in the queue"]
    gpus = sum(count_gpus(other) for other in ahead)
    jobs = "1 job is" if len(ahead) == 1 else f"{len(ahead)} jobs are"
    return [f"{jobs} ahead of it" + (f", asking for {gpus} GPUs in all" if gpus else "")]


def _history(job: Job) -> list[str]:
    lines: list[str] = []
    for attempt in job.attempts:
        if attempt.outcome is None:
            continue
        outcome = attempt.outcome
        code = "" if outcome.exit_code is None else f", exit code {outcome.exit_code}"
        text = f": {outcome.message}" if outcome.message else ""
        lines.append(f"attempt {attempt.number} ended: {outcome.cause}{code}{text}")
    return lines


def _unblocks(job: Job, snapshot: ClusterSnapshot, ledger: Ledger, policy: Policy) -> Iterator[str]:
    """Of each kind of change the smallest one with which the job would start now.

    Cost: a decision for each kind, and log n of them where a kind has n changes: with a larger one
    it starts too.
    """
    if job.needs:
        return
    others = tuple(other for other in snapshot.candidates if other.id != job.id)

    def starts(change: _Change) -> bool:
        tried = replace(snapshot, candidates=(*others, replace(job, spec=change[1])))
        return job.id in decide(tried, ledger, policy).placements

    for changes in _alternatives(job.spec, ledger):
        at = bisect_left(changes, True, key=starts)
        if at < len(changes):
            yield changes[at][0]


def _alternatives(spec: JobSpec, ledger: Ledger) -> Iterator[list[_Change]]:
    """Smaller or less picky requests by kind of change, the nearest to what was asked first."""
    need = need_of(spec)
    if need.gpus and need.gpu_model and not need.mig:
        yield [("any GPU model", replace(spec, gpu_model="", constraint=""))]
        kinds = group_by_kind(d for n in ledger.nodes.values() for d in n.devices)
        for kind in sorted(kinds):
            model = kinds[kind][0].model.removeprefix("NVIDIA ")
            if not kinds[kind][0].is_mig:
                text = f"--gpus {model.replace(' ', '-')}:{need.gpus}"
                yield [(text, replace(spec, gpu_model=model, constraint=""))]
    fewer = replace(spec, gpus=0, gpus_per_task=0)
    gpus = range(need.gpus - 1, 0, -1)
    yield [(f"--gpus {count}", replace(fewer, gpus_per_node=count)) for count in gpus]
    nodes = range(spec.nodes - 1, 0, -1)
    yield [(f"--nodes {count}", replace(spec, nodes=count, tasks=0)) for count in nodes]
    if tasks_per_group(spec) == 1:
        asked = spec.milli_cpus_per_task
        cpus = [count for count in sorted({asked // 2, 1000}, reverse=True) if 0 < count < asked]
        yield [
            (f"--cpus {format_cpus(count)}", replace(spec, milli_cpus_per_task=count))
            for count in cpus
        ]
    if need.memory_bytes or need.whole_memory:
        none = replace(spec, memory_per_node=0, memory_per_cpu=0, memory_per_gpu=0)
        yield [("no --memory request", none)]
    yield from _elsewhere(spec, ledger)


def _elsewhere(spec: JobSpec, ledger: Ledger) -> Iterator[list[_Change]]:
    """The same request, on other nodes."""
    if spec.node_selector:
        yield [("no --node-selector", replace(spec, node_selector={}))]
    layers = {node.layer for node in ledger.nodes.values()}
    for layer in sorted(layers - {need_of(spec).layer, *OPEN_LAYERS}):
        yield [(f"--layer {layer}", replace(spec, layer=layer))]
