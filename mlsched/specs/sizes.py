"""What fits into one object of Kubernetes, whose record of a job is one object. Pure.

Source: etcd refuses requests of more than 1.5 MiB (``--max-request-bytes``).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec
from mlsched.specs.limits import ANNOTATIONS_BYTES_MAX
from mlsched.specs.statuses import JobRecord, JobStatus

PODS_MAX = 1500
"""Pods of one MLJob: as many fit with eight devices and long names each, all running at once."""

STATUS_BYTES_MAX = 1_000_000
"""A status that is larger tells less of the past; a third is left for the rest of the object."""

OBJECT_BYTES_MAX = 1_550_000
"""Of spec, status and annotations together; the rest of the object has some KiB."""

POD_BYTES_MAX = 840
"""Of what must be kept of one pod while it runs, with eight devices."""

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
    if _room_beside(spec) < pods * POD_BYTES_MAX:
        raise SpecError(
            f"on Kubernetes this spec is too large for a job of {pods} pods.",
            "Put what is large into the image or a volume, or submit jobs of fewer pods.",
        )


def _room_beside(spec: JobSpec) -> int:
    """Bytes for a status, where annotations have the spec once more, as `kubectl apply` does."""
    size_bytes = len(msgspec.json.encode(spec))
    return OBJECT_BYTES_MAX - size_bytes - min(size_bytes, ANNOTATIONS_BYTES_MAX)


def fit(status: JobStatus, spec: JobSpec) -> JobStatus:
    """The status with as much of the past as fits into an object beside its spec."""
    most = min(STATUS_BYTES_MAX, _room_beside(spec))
    for level in range(1, 4):
        if len(msgspec.json.encode(status)) <= most:
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
