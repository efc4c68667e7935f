"""What ``show`` and ``report`` tell beyond the row: attempts, files, progress, metrics.

Reads the small files that jobs write beside their logs; what a job wrote is data, bounded in size
and never trusted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlsched.config import Paths
from mlsched.model.jobs import Enforcement, Job
from mlsched.model.specs import Metadata
from mlsched.server.views import JsonObject, attempt_view, placement_view, usage_view
from mlsched.specs.documents import to_document

REPORT_S = 7 * 86_400
"""How far back a report looks unless it is told."""

JOB_FILE_BYTES_MAX = 64 * 1024
"""Of progress.json and metrics.json: what people read, not data."""


def attempt_dir(paths: Paths, job: Job) -> Path | None:
    """Directory of the newest attempt; None before the first."""
    if not job.attempt:
        return None
    return paths.jobs_dir / job.id / str(job.attempt)


def detail_view(
    found: Sequence[Job], directory: Path | None, now_ms: int, *, whole: bool
) -> JsonObject:
    """The keys that ``show`` adds to the JOB object.

    Args:
        found: One job, or the elements of an array.
        directory: Of the newest attempt of a single job, where it is on this machine.
        whole: The array as a whole is shown: what belongs to one attempt is left empty.
    """
    job = found[0]
    directory = None if whole else directory
    enforcement = job.attempts[-1].enforcement if job.attempts else Enforcement()
    name = job.array.name if job.array else job.name
    return _usage(found, now_ms) | {
        "document": to_document(job.spec, Metadata(name=name)),
        "attempts": [] if whole else [attempt_view(attempt) for attempt in job.attempts],
        "enforcement": {"memory": enforcement.memory, "cpus": enforcement.cpus},
        "directory": str(directory) if directory else None,
        "log_files": _log_files(directory),
        "placement": [placement_view(group) for one in found for group in one.placements],
        "after": [{"job": d.name, "id": d.job_id, "condition": d.condition} for d in job.after],
        "progress": read_job_file(directory, "progress.json"),
    }


def _usage(found: Sequence[Job], now_ms: int) -> JsonObject:
    """Usage of one job; of an array the sums, the longest wait and the highest memory."""
    usages = [usage_view(job, now_ms) for job in found]
    most = ("wait_s", "memory_peak_bytes")
    return {key: (max if key in most else sum)(usage[key] for usage in usages) for key in usages[0]}


def reported(job: Job, directory: Path | None) -> JsonObject:
    """What the job itself said of its work: metrics and progress.

    Args:
        directory: Of its newest attempt, where it is on this machine.
    """
    return {
        "metrics": read_job_file(directory, "metrics.json"),
        "progress": read_job_file(directory, "progress.json"),
        "placed_because": job.attempts[-1].placed_because if job.attempts else None,
        "placement": [
            placement_view(group) for attempt in job.attempts[-1:] for group in attempt.placements
        ],
    }


def _log_files(directory: Path | None) -> list[str]:
    if directory is None:
        return []
    return sorted(str(path) for path in directory.glob("rank-*.log"))


def read_job_file(directory: Path | None, name: str) -> Any:
    """A JSON object that a job wrote; None when there is none or it is not one."""
    if directory is None:
        return None
    try:
        found = msgspec.json.decode(_read_small(directory / name))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read_small(path: Path) -> bytes:
    """The content of a small file; empty for anything else. Never waits for a writer of a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return b""
        content = os.read(handle, JOB_FILE_BYTES_MAX + 1)
    finally:
        os.close(handle)
    return content if len(content) <= JOB_FILE_BYTES_MAX else b""
