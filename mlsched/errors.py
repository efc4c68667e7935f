"""The errors that mlsched raises, and how each one ends a command.

    MlschedError
    ├── SpecError                  the request is wrong: where, what was found, what is allowed
    │   └── NeverFitsError         larger than anything that exists here
    ├── ConfigError                a setting, a state directory or a context is wrong
    ├── NotFoundError              no such job, queue, schedule or dataset
    ├── TemporaryError             trying again later can help
    │   ├── ConflictError          somebody else changed it first
    │   └── UnreachableError       the service, the driver or the disk does not answer
    ├── PermanentError             trying again cannot help
    │   └── DeviceLostError        a GPU fell off the bus, or the driver does not match
    ├── JobError                   a job's end that is not the user's own exception
    ├── PipelineError              a pipeline cannot be planned, checked or committed
    │   └── SchemaMismatchError    a table does not keep its contract
    └── InvariantError             a bug of ours: a law was broken

Ends that are expected are values (a ``Reason``, an ``Outcome``), never exceptions.
"""

from __future__ import annotations

from typing import ClassVar


class MlschedError(Exception):
    """Base of all errors of mlsched.

    Args:
        message: What was expected and what was found, in one or two sentences.
        hint: What to do next; empty when the message says all.
    """

    code: ClassVar[str] = "Error"
    """Stable word for programs: the ``code`` of an error in JSON."""

    exit_status: ClassVar[int] = 1
    """What a command exits with when this error ends it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_dict(self) -> dict[str, str]:
        """The error as the JSON object that ``-o json`` and the socket carry."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class SpecError(MlschedError):
    """The request is wrong and cannot be run as it is."""

    code = "InvalidSpec"
    exit_status = 2


class NeverFitsError(SpecError):
    """The request is larger than anything that exists here could ever hold."""

    code = "NeverFits"


class ConfigError(MlschedError):
    """A setting, a context or a state directory is wrong."""

    code = "InvalidConfig"


class NotFoundError(MlschedError):
    """There is no job, queue, schedule or dataset of that name."""

    code = "NotFound"
    exit_status = 102


class TemporaryError(MlschedError):
    """Something failed that can work later.

    Args:
        delay_s: Seconds to wait before the next try.
    """

    code = "Temporary"

    def __init__(self, message: str, hint: str = "", delay_s: float = 1.0) -> None:
        super().__init__(message, hint)
        self.delay_s = delay_s


class ConflictError(TemporaryError):
    """The object changed since it was read, or exists already."""

    code = "Conflict"


class UnreachableError(TemporaryError):
    """The service, a driver or a disk does not answer."""

    code = "Unreachable"
    exit_status = 104


class StoreFullError(TemporaryError):
    """The disk of the state directory is full: nothing was accepted, nothing was lost."""

    code = "DiskFull"


class PermanentError(MlschedError):
    """Something failed, and trying again cannot help."""

    code = "Permanent"


class DeviceLostError(PermanentError):
    """A GPU fell off the bus, or the driver and its library do not match."""

    code = "DeviceLost"


class JobError(MlschedError):
    """A job ended otherwise than with a result or the user's own exception."""

    code = "JobFailed"
    exit_status = 100


class PipelineError(MlschedError):
    """A pipeline cannot be planned, run or committed."""

    code = "PipelineFailed"


class SchemaMismatchError(PipelineError):
    """A table does not keep the schema that was promised for it."""

    code = "SchemaMismatch"
    exit_status = 2


class InvariantError(MlschedError):
    """A law of ours was broken: a bug of mlsched, never of its user.

    Args:
        law: Name of the law in ``mlsched.core.invariants``.
        story: The events that led here, oldest first.
    """

    code = "Bug"

    def __init__(self, law: str, message: str, story: tuple[str, ...] = ()) -> None:
        lines = "".join(f"\n  {line}" for line in story)
        super().__init__(f"{law}: {message}{lines}", "This is a bug of mlsched: please report it.")
        self.law = law
        self.story = story


_BY_CODE: dict[str, type[MlschedError]] = {}


def error_from_dict(found: dict[str, str]) -> MlschedError:
    """Rebuild the error that `MlschedError.to_dict` wrote; an unknown code gives MlschedError."""
    if not _BY_CODE:
        waiting: list[type[MlschedError]] = [MlschedError]
        while waiting:
            kind = waiting.pop()
            _BY_CODE[kind.code] = kind
            waiting.extend(kind.__subclasses__())
    kind = _BY_CODE.get(found.get("code", ""), MlschedError)
    error = kind.__new__(kind)
    MlschedError.__init__(error, found.get("message", ""), found.get("hint", ""))
    if isinstance(error, TemporaryError):
        error.delay_s = 1.0
    return error
