"""What fits into one object of Kubernetes, whose record of a job is one object. Pure.

Source: etcd refuses requests of more than 1.5 MiB (``--max-request-bytes``).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec
from mlsched.specs.statuses import JobRecord, JobStatus

PODS_MAX = 1500
"""Pods of one MLJob: as many fit with eight devices and long names each, all running at once."""

STATUS_BYTES_MAX = 1_000_000
"""A status that is larger tells less of the past; a third is left for the rest of the object."""

SHORT_BYTES_MAX = 80

R = TypeVar("R", bound=JobRecord)


def check_size(spec: JobSpec) -> None:
    """Refuse a job whose record would not fit into one object.

    Raises:
        SpecError: with what to do.
    """
    elements = len(spec.array.indices) if spec.array is not None else 1
    pods = elements * spec.nodes
    if pods > PODS_MAX:
        what = f"{elements} elements of {spec.nodes} nodes" if spec.array else f"{pods} nodes"
        raise SpecError(
            f"on Kubernetes one job has at most {PODS_MAX} pods, found {what}.",
            "Submit several arrays, or let each element do more."
            if spec.array
            else "Submit several jobs.",
        )


def fit(status: JobStatus) -> JobStatus:
    """The status with as much of the past as fits into an object."""
    for level in range(1, 4):
        if len(msgspec.json.encode(status)) <= STATUS_BYTES_MAX:
            break
        elements = tuple(_shorten(one, level) for one in status.elements)
        status = replace(_shorten(status, level), elements=elements)
    return status


def _shorten(record: R, level: int) -> R:
    """Earlier attempts go first, then what is told of ended ones, then their times."""
    last = record.attempts[-1:]
    changes: dict[str, Any] = {
        "attempts": tuple(replace(a, placed_because="", message=_cut(a.message)) for a in last),
        "message": _cut(record.message),
        "evidence": {},
    }
    if record.state.is_ended and level > 1:
        changes |= {"attempts": (), "message": "", "placements": ()}
    if record.state.is_ended and level > 2:
        changes |= {"started_at": "", "ended_at": ""}
    return replace(record, **changes)


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:SHORT_BYTES_MAX].decode("utf-8", "ignore")
