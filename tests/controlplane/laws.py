"""What must hold of every history, whatever failed meanwhile: the laws, and who broke them.

``broken(history, ...)`` names every breach in one line each; a good history gives none.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.controlplane.histories import ENDED, NEVER, History, JobLife, PodLife, Record

LEAK_S_MAX = 10.0
"""A pod of a job that has ended must have ended by then."""
LATE_S_MAX = 3.0
"""A pod that a late request has made, which nothing could know of, must be on its way out by then.
Such a pod is forgiven where a test lets requests arrive after their sender has lost its lease."""
PARTIAL_S_MAX = 12.0
"""A gang may be there in part for so long: a lease runs out, a controller starts, requests fail."""

STEPS = {
    "PENDING": ("PENDING", "STARTING", "RUNNING", *ENDED),
    "STARTING": ("STARTING", "RUNNING", "PENDING", *ENDED),
    "RUNNING": ("RUNNING", "PENDING", *ENDED),
}
"""From one record to the next; several moves may have become one write. The last states stay."""


@dataclass(frozen=True)
class Expected:
    """How a job must end.

    Attributes:
        states: Any of these.
        code: Exit code; None takes any.
        retries: Retries used; None takes any number.
    """

    states: tuple[str, ...] = ("SUCCEEDED",)
    code: int | None = None
    retries: int | None = None


@dataclass(frozen=True)
class Sizes:
    """What nodes have."""

    gpus: int
    milli_cpus: int


def broken(
    history: History,
    expected: Mapping[str, Expected],
    nodes: Mapping[str, Sizes],
    gangs: Mapping[str, int] | None = None,
    partial_s_max: float = PARTIAL_S_MAX,
) -> list[str]:
    """Every breach of a law.

    Args:
        expected: How jobs must end, by name; those that were deleted are not asked for.
        nodes: All nodes.
        gangs: Size of each foreign gang, by the label ``tests/gang`` of its pods.
        partial_s_max: How long a gang may be there in part; longer where nobody can write.
    """
    return [
        *double_starts(history),
        *overlaps(history),
        *starts_without_record(history),
        *illegal_steps(history),
        *disorder(history),
        *lost_jobs(history, expected),
        *disagreements(history),
        *leaks(history),
        *partial_gangs(history, partial_s_max),
        *foreign_breaches(history, gangs or {}, partial_s_max),
        *overfull_nodes(history, nodes),
    ]


def without_late_pods(history: History) -> History:
    """The history without pods that no record asked for and that were deleted as soon as seen."""
    pods = dict(history.pods)
    for job, index, some in history.units():
        for pod in some:
            record = job.at(index, pod.created)
            is_asked = record is not None and record.attempt == pod.attempt
            if is_asked and record is not None and record.state not in ENDED:
                continue
            if pod.deleting != NEVER and pod.deleting_s - pod.created_s < LATE_S_MAX:
                del pods[pod.uid]
    return History(pods, history.jobs)


def double_starts(history: History) -> Iterator[str]:
    """At most one pod for each job, element, attempt and group."""
    for job, index, pods in history.units():
        seen: dict[tuple[int, int], PodLife] = {}
        for pod in pods:
            first = seen.setdefault((pod.attempt, pod.group), pod)
            if first is not pod:
                yield (
                    f"double start: {_name(job, index)} attempt {pod.attempt} group {pod.group}:"
                    f" {first.label} and {pod.label}"
                )


def overlaps(history: History) -> Iterator[str]:
    """Pods of two attempts of one job are never alive at once."""
    for job, index, pods in history.units():
        for one, other in itertools.combinations(pods, 2):
            if one.attempt != other.attempt and other.created < one.over:
                yield (
                    f"two attempts at once: {_name(job, index)}: {one.label} was alive when"
                    f" {other.label} was created"
                )


def starts_without_record(history: History) -> Iterator[str]:
    """A pod is created only after the status says that its attempt starts."""
    for job, index, pods in history.units():
        for pod in pods:
            record = job.at(index, pod.created)
            if record is None or record.attempt != pod.attempt or record.state in ENDED:
                said = f"{record.state} attempt {record.attempt}" if record else "nothing"
                yield f"start without a record: {pod.label}, the status said {said}"


def illegal_steps(history: History) -> Iterator[str]:
    """States follow the table, attempts rise by one, epochs never fall."""
    for job in history.jobs.values():
        for index, records in job.records.items():
            for before, after in itertools.pairwise(records):
                if not _is_legal(before, after):
                    yield (
                        f"illegal step: {_name(job, index)}: {before.state} attempt"
                        f" {before.attempt} to {after.state} attempt {after.attempt}"
                    )
        if job.epochs != sorted(job.epochs):
            yield f"an older controller wrote: {job.name}: epochs {job.epochs}"


def _is_legal(before: Record, after: Record) -> bool:
    if before.state in ENDED:
        return (before.state, before.attempt) == (after.state, after.attempt)
    if after.attempt == before.attempt:
        return after.state in STEPS[before.state] and not (
            before.state == "PENDING" and before.attempt and after.state in ("STARTING", "RUNNING")
        )
    return after.attempt == before.attempt + 1


def disorder(history: History) -> Iterator[str]:
    """Elements of one array are placed in the order of their indices."""
    for job in history.jobs.values():
        firsts = [(int(i), records[0].revision) for i, records in job.records.items() if i]
        for (index, at), (other, later) in itertools.pairwise(sorted(firsts)):
            if at > later:
                yield f"out of order: {job.name}[{other}] was placed before {job.name}[{index}]"


def lost_jobs(history: History, expected: Mapping[str, Expected]) -> Iterator[str]:
    """Every job that was accepted ends, and as it must."""
    for job, index, _ in history.units():
        if job.deleted != NEVER:
            continue
        last = (job.records.get(index) or [None])[-1]
        if last is None or last.state not in ENDED:
            said = f"{last.state} {last.value.get('message', '')}" if last else "never placed"
            yield f"lost: {_name(job, index)} has not ended: {said}"
            continue
        wanted = expected.get(job.name, Expected())
        code, retries = last.value.get("exitCode"), last.value.get("retriesUsed", 0)
        if (
            last.state not in wanted.states
            or (wanted.code is not None and code != wanted.code)
            or (wanted.retries is not None and retries != wanted.retries)
        ):
            message = last.value.get("message", "")
            yield (
                f"wrong end: {_name(job, index)}: {last.state}, code {code}, {retries} retries"
                f" ({message}), expected {wanted}"
            )


def disagreements(history: History) -> Iterator[str]:
    """A final state agrees with the exit codes of the pods of the last attempt."""
    for job, index, pods in history.units():
        last = (job.records.get(index) or [None])[-1]
        if last is None or last.state not in ENDED:
            continue
        final = [one for one in pods if one.attempt == last.attempt]
        groups = int(job.spec.get("nodes", 1))
        all_good = len({one.group for one in final}) == groups and all(
            one.phase == "Succeeded" and not any(one.codes) for one in final
        )
        if last.state == "CANCELLED" and any(one.deleting != NEVER for one in final):
            continue  # it may end with 0 because it was asked to stop
        if (last.state == "SUCCEEDED") != all_good:
            told = [(one.name, one.phase, one.codes) for one in final]
            yield f"disagreement: {_name(job, index)} is {last.state}, its pods: {told}"
        code = last.value.get("exitCode")
        if last.state == "FAILED" and code is not None and final:
            codes = {code for one in final for code in one.codes} | {143}
            if code not in codes:
                yield f"disagreement: {_name(job, index)} has code {code}, its pods {codes}"


def leaks(history: History) -> Iterator[str]:
    """Nothing of a job runs long after its end."""
    now_s = time.monotonic()
    for job, index, pods in history.units():
        last = (job.records.get(index) or [None])[-1]
        ended_s = job.deleted_s if job.deleted != NEVER else 0.0
        if not ended_s and last is not None and last.state in ENDED:
            ended_s = last.at_s
        for pod in pods:
            lived_s = (pod.over_s if pod.over != NEVER else now_s) - ended_s
            if ended_s and (pod.over == NEVER or lived_s > LEAK_S_MAX):
                yield f"leak: {pod.label} lived {lived_s:.1f} s after the end of its job"


def partial_gangs(history: History, seconds_max: float) -> Iterator[str]:
    """Of a gang all pods are there, or none, or they are being ended; but for a short time."""
    for job, index, pods in history.units():
        groups = int(job.spec.get("nodes", 1))
        by_attempt = defaultdict(list)
        for pod in pods:
            by_attempt[pod.attempt].append(pod)
        for attempt, some in by_attempt.items():
            yield from _partial(f"{_name(job, index)} attempt {attempt}", some, groups, seconds_max)


def _partial(name: str, pods: Sequence[PodLife], size: int, seconds_max: float) -> Iterator[str]:
    bound = sorted(one.bound_s for one in pods if one.bound != NEVER)
    if not bound or size < 2:
        return
    ends = [one.over_s for one in pods if one.over != NEVER]
    whole_s = bound[-1] if len(bound) >= size else min(ends, default=time.monotonic())
    if whole_s - bound[0] > seconds_max:
        yield f"partial gang: {name}: {len(bound)} of {size} for {whole_s - bound[0]:.1f} s"


def foreign_breaches(
    history: History, gangs: Mapping[str, int], partial_s_max: float
) -> Iterator[str]:
    """Pods of others are placed once, in whole gangs."""
    members: dict[str, list[PodLife]] = defaultdict(list)
    for pod in history.pods.values():
        if len(pod.nodes) > 1:
            yield f"placed twice: {pod.label} on {pod.nodes}"
        if not pod.unit[0]:
            members[pod.gang or pod.name].append(pod)
            if pod.bound == NEVER and pod.over == NEVER:
                yield f"lost: the foreign pod {pod.label} was never placed"
    for name, some in members.items():
        yield from _partial(f"foreign {name}", some, gangs.get(name, 1), partial_s_max)


def overfull_nodes(history: History, nodes: Mapping[str, Sizes]) -> Iterator[str]:
    """No node ever carries more than it has."""
    steps: list[tuple[int, int, PodLife]] = []
    for pod in history.pods.values():
        if pod.bound != NEVER:
            steps += [(pod.bound, 1, pod), (pod.over, -1, pod)]
    gpus: dict[str, int] = defaultdict(int)
    cpus: dict[str, int] = defaultdict(int)
    for revision, sign, pod in sorted(steps, key=lambda step: step[:2]):
        gpus[pod.node] += sign * pod.gpus
        cpus[pod.node] += sign * pod.milli_cpus
        size = nodes.get(pod.node)
        if size is None:
            yield f"placed on no node: {pod.label} on {pod.node}"
        elif sign > 0 and (gpus[pod.node] > size.gpus or cpus[pod.node] > size.milli_cpus):
            yield (
                f"overfull: {pod.node} has {gpus[pod.node]} of {size.gpus} GPUs and"
                f" {cpus[pod.node]}m of {size.milli_cpus}m CPUs with {pod.label} at {revision}"
            )


def _name(job: JobLife, index: str) -> str:
    return f"{job.name}[{index}]" if index else job.name
