"""Asking MLJobs, or elements of arrays, to end: the controller carries out what is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.objects import Metadata, decode_job, job_path
from mlsched.model.jobs import Job
from mlsched.specs.wishes import (
    CANCEL_ANNOTATION,
    CANCEL_ELEMENTS_ANNOTATION,
    Cancellation,
    read_cancellation,
    write_parts,
)

TRIES_MAX = 20
"""Of a write to an object that others write to as well: a controller writes at each transition."""


def cancel_whole(connections: Connections, about: Metadata, grace_s: int | None) -> None:
    """Ask a job, or all of an array, to end.

    Raises:
        ApiError: refused.
    """
    _annotate(connections, about, {CANCEL_ANNOTATION: "" if grace_s is None else str(grace_s)})


def cancel_elements(
    connections: Connections, about: Metadata, jobs: Sequence[Job], grace_s: int | None
) -> None:
    """Ask elements of an array to end, besides those that were asked before.

    Args:
        jobs: The elements.

    Raises:
        ApiError: refused; code 409 when the object does not stay as it is for long enough.
    """
    for left in range(TRIES_MAX, -1, -1):
        wish = read_cancellation(about.annotations) or Cancellation()
        for index in _indices(jobs):
            wish = wish.and_also(index, grace_s)
        try:
            _annotate(
                connections,
                about,
                {CANCEL_ELEMENTS_ANNOTATION: write_parts(wish)},
                about.resource_version,
            )
            return
        except ApiError as error:
            if error.code != 409 or not left:
                raise
        about = decode_job(connections.get(job_path(about.namespace, about.name))).metadata


def _indices(jobs: Iterable[Job]) -> list[int]:
    return [job.array.index for job in jobs if job.array is not None]


def _annotate(
    connections: Connections, about: Metadata, annotations: dict[str, str], version: str = ""
) -> None:
    """Add annotations, to one version of the object where one is named."""
    metadata: dict[str, object] = {"annotations": annotations}
    if version:
        metadata["resourceVersion"] = version
    patch = msgspec.json.encode({"metadata": metadata})
    connections.merge(job_path(about.namespace, about.name), patch)
