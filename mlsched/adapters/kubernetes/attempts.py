"""What the pods of one attempt say about it: started, failed, ended. Pure.

Exit evidence wins: a container that ended by itself counts as it ended, whatever happened to its
pod afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec import Struct

from mlsched.adapters.kubernetes.objects import ContainerStatus, Pod, Terminated
from mlsched.model.jobs import EndCause, Outcome

REJECTIONS = frozenset(
    {
        *("UnexpectedAdmissionError", "NodeAffinity", "NodeName", "NodePorts", "TaintToleration"),
        *("NodeUnschedulable", "InvalidNodeInfo", "TopologyAffinityError", "AppArmor"),
    }
)
"""A kubelet's words, beside ``OutOf...``, for a pod that it never started.

Source: kubelet/lifecycle/predicate.go, and the device manager's admission.
"""

EVICTIONS = frozenset(
    {"Evicted", "Preempting", "Preempted", "NodeShutdown", "Terminated", "Shutdown"}
)

BROKEN_IMAGES = frozenset({"ErrImageNeverPull", "InvalidImageName"})
"""Waiting for these is in vain."""
PULL_TROUBLES = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
)
"""Tried again by the kubelet, and perhaps better later."""
BROKEN_CONTAINERS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreStartHookError"}
)

_RANK = re.compile(r"rank-(\d{1,6})")
_RUNTIME = re.compile(r"^.*unable to start container process: (error during container init: )?")
"""What container runtimes write before the cause, layer by layer."""

_MESSAGE_CHARACTERS_MAX = 300


class Reading(Struct, frozen=True):
    """What is known of one pod.

    At most one of ``failure`` and ``is_success`` is set; neither while it may still go either way.
    """

    started_at_ms: int | None = None
    """Of the last container to start, once all of them have."""
    failure: Outcome | None = None
    is_success: bool = False
    is_over: bool = False
    """Nothing of it runs any more."""
    trouble: Outcome | None = None
    """It does not start now, and perhaps never: for whoever has a clock."""
    ended_at_ms: int = 0
    run_ms: int = 0


def parse_time_ms(text: str | None) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 time; None for none."""
    if not text:
        return None
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return None


def read_pod(pod: Pod, *, is_gone: bool = False) -> Reading:
    """What a pod says of its part of an attempt.

    Containers that others put beside the ranks, as meshes do, keep it from having ended while they
    run, but what it ended with is told by the ranks.

    Args:
        is_gone: The object does not exist any more; ``pod`` is its last state.
    """
    statuses = [s for s in pod.status.container_statuses if _RANK.fullmatch(s.name)]
    ranks = sum(_RANK.fullmatch(one.name) is not None for one in pod.spec.containers)
    ends = [s.state.terminated for s in statuses if s.state.terminated is not None]
    runs_alone = ranks == len(pod.spec.containers)
    is_done = pod.is_over or is_gone
    all_ended = bool(ends) and len(ends) >= ranks and (runs_alone or is_done)
    starts = [at for s in statuses if (at := _started_at(s)) is not None]
    ended_at = max((parse_time_ms(end.finished_at) or 0 for end in ends), default=0)
    started_at = max(starts) if starts and len(starts) >= ranks else None
    failure = _failure(pod, statuses, is_gone=is_gone, all_ended=all_ended)
    is_success = failure is None and (
        pod.status.phase == "Succeeded" or (all_ended and all(end.exit_code == 0 for end in ends))
    )
    first = min(starts, default=ended_at)
    return Reading(
        started_at_ms=started_at,
        failure=_dated(failure, ended_at, ended_at - first) if failure else None,
        is_success=is_success,
        is_over=is_done or all_ended,
        trouble=None if is_done or all_ended else _trouble(pod),
        ended_at_ms=ended_at,
        run_ms=max(0, ended_at - first) if ends else 0,
    )


def _dated(outcome: Outcome, ended_at_ms: int, run_ms: int) -> Outcome:
    from msgspec.structs import replace

    return replace(outcome, ended_at_ms=ended_at_ms, run_ms=max(0, run_ms))


def _started_at(status: ContainerStatus) -> int | None:
    """None also for the beginning of 1970, which is told of what could not be started."""
    running, end = status.state.running, status.state.terminated
    text = running.started_at if running is not None else end.started_at if end else None
    return parse_time_ms(text) or None


def _failure(
    pod: Pod, statuses: list[ContainerStatus], *, is_gone: bool, all_ended: bool
) -> Outcome | None:
    """Why a pod has failed, or will never succeed any more; None while it may."""
    failed = _failed(statuses)
    if all_ended and not failed:
        return None
    whole = _pod_failure(pod)
    if whole is not None:
        return whole
    if pod.metadata.deletion_timestamp is not None or is_gone:
        return _end_of_deleted(pod, failed, is_over=is_gone or pod.is_over or all_ended)
    if failed:
        return _container_failure(failed[0])
    if pod.status.phase == "Failed":
        return Outcome(EndCause.CANNOT_START, message=_short(pod.status.message or "pod failed"))
    return None


def _failed(statuses: list[ContainerStatus]) -> list[ContainerStatus]:
    """Containers that ended with an error, the first to end first."""
    failed = [s for s in statuses if s.state.terminated and s.state.terminated.exit_code != 0]
    failed.sort(key=lambda s: (s.state.terminated and s.state.terminated.finished_at) or "")
    return failed


def _end_of_deleted(pod: Pod, failed: list[ContainerStatus], *, is_over: bool) -> Outcome | None:
    """Why a pod that is being deleted has failed: by itself before, or by being deleted."""
    if failed and not _was_killed(failed[0]):
        return _container_failure(failed[0])
    return _deleted(pod) if is_over else None


def _pod_failure(pod: Pod) -> Outcome | None:
    """What the kubelet or the cluster says of the whole pod."""
    reason, message = pod.status.reason, _short(pod.status.message)
    if pod.status.phase == "Failed":
        if reason == "DeadlineExceeded":
            return Outcome(EndCause.TIME_LIMIT, 143, 15, message="ran into its time limit")
        if reason in REJECTIONS or reason.startswith("OutOf"):
            return Outcome(EndCause.REVOKED, message=f"{pod.spec.node_name} refused it: {message}")
        if reason == "NodeLost":
            return Outcome(EndCause.NODE_LOST, message=message)
        if reason in EVICTIONS:
            return Outcome(EndCause.EVICTED, message=f"{pod.spec.node_name} evicted it: {message}")
    for condition in pod.status.conditions:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            text = f"was evicted ({condition.reason}): {_short(condition.message)}"
            return Outcome(EndCause.EVICTED, message=text) if _is_ending(pod) else None
    return None


def _is_ending(pod: Pod) -> bool:
    return pod.is_over or pod.metadata.deletion_timestamp is not None


def _deleted(pod: Pod) -> Outcome:
    text = f"its pod {pod.metadata.name} was deleted, and not by mlsched"
    return Outcome(EndCause.DELETED, message=text)


def _was_killed(status: ContainerStatus) -> bool:
    """Whether it ended as it does when its pod is deleted: by SIGTERM or SIGKILL."""
    end = status.state.terminated
    return end is not None and end.exit_code in (143, 137) and end.reason != "OOMKilled"


def _container_failure(status: ContainerStatus) -> Outcome:
    end = status.state.terminated or Terminated()
    found = _RANK.fullmatch(status.name)
    rank = int(found[1]) if found else -1
    message = _short(_RUNTIME.sub("", end.message))
    if end.reason == "OOMKilled":
        text = f"rank {rank} used more memory than it may"
        return Outcome(EndCause.OUT_OF_MEMORY, 137, 9, rank, text)
    if end.reason in ("StartError", "ContainerCannotRun"):
        code = 127 if "not found" in message else 126
        return Outcome(_start_cause(message), code, 0, rank, message)
    if end.reason == "ContainerStatusUnknown":
        text = "its node cannot tell how it ended"
        return Outcome(EndCause.NODE_LOST, None, 0, rank, text)
    if 128 < end.exit_code < 128 + 65:
        signal = end.exit_code - 128
        text = f"killed by signal {signal}"
        return Outcome(EndCause.SIGNALLED, end.exit_code, signal, rank, text)
    text = f"ended with exit code {end.exit_code}"
    return Outcome(EndCause.EXITED, end.exit_code, 0, rank, text)


def _start_cause(message: str) -> EndCause:
    if "no such file or directory" in message or "not found" in message:
        workdir = "chdir" in message
        return EndCause.WORKDIR_MISSING if workdir else EndCause.NOT_FOUND
    if "permission denied" in message:
        return EndCause.NOT_EXECUTABLE
    return EndCause.CANNOT_START


def _trouble(pod: Pod) -> Outcome | None:
    """Why a pod does not start; what is in vain says so at once by `is_hopeless`."""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        waiting = status.state.waiting
        if waiting is None:
            continue
        text = _short(waiting.message or waiting.reason)
        if waiting.reason in BROKEN_IMAGES | PULL_TROUBLES:
            return Outcome(EndCause.IMAGE_UNAVAILABLE, message=f"{waiting.reason}: {text}")
        if waiting.reason in BROKEN_CONTAINERS:
            return Outcome(EndCause.CANNOT_START, message=f"{waiting.reason}: {text}")
    return None


def is_hopeless(trouble: Outcome) -> bool:
    """Whether waiting cannot cure it."""
    return any(trouble.message.startswith(reason) for reason in BROKEN_IMAGES)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_CHARACTERS_MAX else f"{line[:_MESSAGE_CHARACTERS_MAX]}..."


class Summary(Struct, frozen=True):
    """What all pods of an attempt say together."""

    started_at_ms: int | None = None
    """Of the last pod to start, once all of them have."""
    failure: Outcome | None = None
    trouble: Outcome | None = None
    success: Outcome | None = None
    is_over: bool = False
    """Nothing of it runs any more."""
    ended_at_ms: int = 0
    run_ms: int = 0


def summarize(readings: Mapping[int, Reading], groups: int) -> Summary:
    """The attempt, from what is known of its pods.

    Args:
        readings: By group; one that is missing was not created.
        groups: How many pods the attempt has.
    """
    known = list(readings.values())
    starts = [r.started_at_ms for r in known if r.started_at_ms is not None]
    ended_at = max((r.ended_at_ms for r in known), default=0)
    run_ms = max((r.run_ms for r in known), default=0)
    success = None
    if len(known) == groups and all(r.is_success for r in known):
        success = Outcome(EndCause.EXITED, 0, ended_at_ms=ended_at, run_ms=run_ms)
    return Summary(
        started_at_ms=max(starts) if len(starts) == groups else None,
        failure=_first_failure(known),
        trouble=next((r.trouble for r in known if r.trouble is not None), None),
        success=success,
        is_over=all(r.is_over for r in known),
        ended_at_ms=ended_at,
        run_ms=run_ms,
    )


def _first_failure(readings: Iterable[Reading]) -> Outcome | None:
    """The failure that came first; what a pod did by itself before what was done to it."""
    failures = [r.failure for r in readings if r.failure is not None]
    order = (EndCause.EVICTED, EndCause.DELETED, EndCause.NODE_LOST)
    return min(failures, key=lambda f: (f.cause in order, f.ended_at_ms), default=None)
