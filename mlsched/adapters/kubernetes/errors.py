"""How an API server says no, as values that whoever asked can tell apart."""

from __future__ import annotations

from typing import Any

import msgspec

from mlsched.errors import TemporaryError

RETRY_AFTER_S_MAX = 60.0
"""A proxy in maintenance may ask for hours; what has changed meanwhile must not be unknown."""


class Status(msgspec.Struct, rename="camel"):
    """An error as the API server tells it."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: dict[str, Any] | None = None


decode_status = msgspec.json.Decoder(Status).decode


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        code: HTTP status.
        reason: The API server's word, such as ``AlreadyExists``.
        message: Its sentence.
        retry_after_s: How long it asks to wait, when it does.
    """

    def __init__(
        self, code: int, reason: str, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later: too many, a time-out, a server's trouble."""
        return self.code == 429 or self.code >= 500

    def is_absent(self, name: str) -> bool:
        """Whether there is no object of this name; not whether its kind is not served just now."""
        is_missing = self.code == 404 and self.reason == "NotFound"
        return is_missing and f'"{name}" not found' in self.message

    @property
    def is_gone(self) -> bool:
        """Whether a version is too old to be watched from."""
        return self.code == 410 or self.reason in ("Expired", "Gone")


class NoAnswerError(TemporaryError):
    """A request may or may not have been carried out: the connection broke, or it took too long."""


class SilenceError(NoAnswerError):
    """Nothing came on a watch for too long: perhaps nothing happened, perhaps nobody is there."""


def read_error(code: int, body: bytes, retry_after: str | None) -> ApiError:
    """The error in an answer, whoever wrote it: a proxy's is no Status."""
    try:
        status = decode_status(body)
    except msgspec.DecodeError:
        status = Status(message=body[:200].decode("utf-8", "replace"))
    after = None
    if retry_after and retry_after.isdecimal():
        after = min(float(retry_after), RETRY_AFTER_S_MAX)
    return ApiError(code, status.reason, status.message or f"HTTP {code}", after)
