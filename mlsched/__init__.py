"""mlsched: a GPU machine-learning scheduler and Arrow data pipeline.

``import mlsched as ml`` gives the Python API: `submit`, `get`, `jobs`, `gpus`, the `Job` handle and
the errors that a job can end with. Nothing is imported before it is used, so that the import costs
next to nothing in every job.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlsched.version import __version__

if TYPE_CHECKING:
    from mlsched.api.errors import (
        Cancelled,
        EnvironmentMismatch,
        JobFailed,
        OutOfMemory,
        RemoteError,
        Timeout,
        Unschedulable,
    )
    from mlsched.api.jobs import Job, Status, get, gpus, jobs, submit
    from mlsched.api.progress import metrics, progress
    from mlsched.errors import JobError, MlschedError, NeverFitsError, NotFoundError, SpecError

_HOMES = {
    "Cancelled": "mlsched.api.errors",
    "EnvironmentMismatch": "mlsched.api.errors",
    "Job": "mlsched.api.jobs",
    "JobError": "mlsched.errors",
    "JobFailed": "mlsched.api.errors",
    "MlschedError": "mlsched.errors",
    "NeverFitsError": "mlsched.errors",
    "NotFoundError": "mlsched.errors",
    "OutOfMemory": "mlsched.api.errors",
    "RemoteError": "mlsched.api.errors",
    "SpecError": "mlsched.errors",
    "Status": "mlsched.api.jobs",
    "Timeout": "mlsched.api.errors",
    "Unschedulable": "mlsched.api.errors",
    "get": "mlsched.api.jobs",
    "gpus": "mlsched.api.jobs",
    "jobs": "mlsched.api.jobs",
    "metrics": "mlsched.api.progress",
    "progress": "mlsched.api.progress",
    "submit": "mlsched.api.jobs",
}
"""Where each public name lives."""

__all__ = [
    "Cancelled",
    "EnvironmentMismatch",
    "Job",
    "JobError",
    "JobFailed",
    "MlschedError",
    "NeverFitsError",
    "NotFoundError",
    "OutOfMemory",
    "RemoteError",
    "SpecError",
    "Status",
    "Timeout",
    "Unschedulable",
    "__version__",
    "get",
    "gpus",
    "jobs",
    "metrics",
    "progress",
    "submit",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mlsched' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
