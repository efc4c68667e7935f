"""What every client of jobs offers, wherever the jobs are: on this machine or in a cluster."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from mlsched.api.closing import Closing
from mlsched.config import Paths

JsonObject = dict[str, Any]


class AnyStream(Protocol):
    """The answer to one request: events, then a result."""

    is_over: bool
    result: Any

    def poll(self, timeout_s: float | None) -> list[Any]:
        """Events that arrive within so many seconds; perhaps none."""
        ...

    def close(self) -> None:
        """Leave."""
        ...

    def __iter__(self) -> Iterator[Any]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...


class Outputs(Closing):
    """Where output can be read: a directory an attempt, as `mlsched.api.logs` has it."""

    @abstractmethod
    def look(self, job: JsonObject) -> None:
        """Take note of the newest version of a job whose output is followed."""

    @abstractmethod
    def fetch(self, job: JsonObject, attempt: int) -> Path:
        """The directory of an attempt, with all that was written so far."""

    @abstractmethod
    def directory(self, job_id: str, attempt: int) -> Path:
        """Where the output of an attempt that is followed appears; it need not exist yet."""

    @abstractmethod
    def is_whole(self, job_id: str, attempt: int) -> bool:
        """Whether everything of an attempt that has ended is in its directory."""


class LocalOutputs(Outputs):
    """Output that is on this machine.

    Args:
        jobs_dir: Where the attempts are.
    """

    def __init__(self, jobs_dir: Path) -> None:
        self._jobs_dir = jobs_dir

    def look(self, job: JsonObject) -> None:
        """Nothing has to be brought here."""

    def fetch(self, job: JsonObject, attempt: int) -> Path:
        """The directory of an attempt."""
        return self.directory(str(job["id"]), attempt)

    def directory(self, job_id: str, attempt: int) -> Path:
        """The directory of an attempt."""
        return self._jobs_dir / job_id / str(attempt)

    def is_whole(self, job_id: str, attempt: int) -> bool:
        """It is whole as soon as the job has ended: the supervisor writes before it tells."""
        return True

    def close(self) -> None:
        """Nothing is held."""


class AnyClient(Protocol):
    """Asks for jobs. Safe to share between threads."""

    paths: Paths
    context: str
    """``local``, or the name of a kubeconfig context."""

    def call(self, op: str, /, **args: Any) -> Any:
        """The result of an operation."""
        ...

    def stream(self, op: str, /, **args: Any) -> AnyStream:
        """Send an operation that answers with events; the caller closes the stream."""
        ...

    def open_outputs(self) -> Outputs:
        """Where the output of jobs can be read; the caller closes it."""
        ...


Args = Mapping[str, Any]
