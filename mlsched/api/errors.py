"""How a job ends in Python when it is neither with a result nor with the user's own exception.

Their names are short, as in ``except ml.OutOfMemory``: they are part of the API. Each carries the
job's name, so that a handler can fetch it again with ``ml.get(error.job)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsched.errors import JobError


class JobFailed(JobError):  # noqa: N818 - names of the API, read as `except ml.JobFailed`
    """A job failed: exit code, signal, command not found, a lost supervisor.

    Args:
        message: One or two sentences for people.
        hint: What to do next.
        job: Name of the job.
        exit_code: The job's own exit code, 128 + n for signal n; None when it has none.
    """

    code = "JobFailed"

    def __init__(
        self, message: str, hint: str = "", *, job: str = "", exit_code: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.job = job
        self.exit_code = exit_code


class OutOfMemory(JobFailed):
    """The job was ended because it used more memory than it may."""

    code = "OutOfMemory"


class Timeout(JobFailed):
    """The job was ended by its own time limit (waiting too long raises TimeoutError instead)."""

    code = "TimeLimitExceeded"


class Cancelled(JobFailed):
    """Somebody cancelled the job."""

    code = "CancelledByUser"
    exit_status = 103


class Unschedulable(JobFailed):
    """The job never ran, and never will: it cannot fit, or lost what it depends on."""

    code = "Unschedulable"


class RemoteError(JobFailed):
    """The job's function raised an exception that cannot be rebuilt here.

    ``remote_type`` and ``remote_text`` hold its class and its traceback as text.
    """

    code = "RemoteError"
    remote_type: str = ""
    remote_text: str = ""


class EnvironmentMismatch(JobFailed):
    """The job's Python differs from the one that the function was made with."""

    code = "EnvironmentMismatch"


_BY_REASON: dict[str, type[JobFailed]] = {
    "OutOfMemory": OutOfMemory,
    "TimeLimitExceeded": Timeout,
    "CancelledByUser": Cancelled,
    "NeverFits": Unschedulable,
    "Misconfigured": Unschedulable,
    "DependencyFailed": Unschedulable,
}


def error_of_job(job: Mapping[str, Any]) -> JobFailed:
    """The error that stands for the end of a JOB object in state FAILED or CANCELLED."""
    reason = job.get("reason") or {}
    code = str(reason.get("code", ""))
    kind = _BY_REASON.get(code, Cancelled if job["state"] == "CANCELLED" else JobFailed)
    name = str(job["name"])
    text = str(reason.get("message") or code or "it failed").rstrip(".")
    return kind(
        f"{name}: {text}.",
        f"Run 'mlsched logs {name}' to see its output.",
        job=name,
        exit_code=job.get("exit_code"),
    )
