"""What a client of S3 says when it fails, in our words.

Its own text quotes requests and answers, so not a word of it is passed on: only the status, the
code that S3 gives and the kind of failure are read from it.
"""

from __future__ import annotations

import re

from msgspec import Struct

from mlsched.errors import (
    ConfigError,
    ConflictError,
    MlschedError,
    PipelineError,
    StoreFullError,
    UnreachableError,
)

EXPIRED_CODES = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"}
"""Codes that new keys can help with.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

_REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}
_SIGNATURE_CODES = EXPIRED_CODES | {"SignatureDoesNotMatch"}
_BUSY_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout"}
_BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504}

_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_TLS = ("invalidcontenttype", "wrong_version_number", "record layer failure")
_LOGIN_ERRORS = re.compile(r"Credential|Token|Login|SSO|Unauthorized")
_PROVIDER = re.compile(r"External AWS credential provider: (\w{1,60})")


class TakenError(MlschedError):
    """The name that was to be created exists; never leaves the store."""


class Place(Struct, frozen=True):
    """What a request was about."""

    bucket: str
    path: str
    endpoint: str

    @property
    def url(self) -> str:
        """The object's address."""
        return f"s3://{self.bucket}/{self.path}"


def is_refusal(error: Exception, is_old: bool) -> bool:
    """Whether other keys than those of the client could help.

    Args:
        error: Obstore's.
        is_old: The client was made long ago; a 403 to HEAD, which has no code, may be due to that.
    """
    text = _text(error)
    code, status = _code(text), _status(text)
    return code in EXPIRED_CODES or (is_old and status in (401, 403) and code != "QuotaExceeded")


def explain(error: Exception, place: Place) -> Exception:
    """The error of ours that says what an error of obstore means.

    Args:
        error: Obstore's or boto3's, or a built-in one from them.
        place: What the request was about.

    Returns:
        FileNotFoundError, or one of ours: StoreFullError for a quota, UnreachableError where
        trying later can help, ConfigError for TLS and credentials, PipelineError for the rest.
    """
    text = _text(error)
    code, status = _code(text), _status(text)
    if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
        return TakenError(f"{place.url} exists.")
    if code == "NoSuchBucket":
        return PipelineError(
            f"There is no bucket {place.bucket!r} at {place.endpoint}.",
            "Create it, or correct the address or the endpoint (AWS_ENDPOINT_URL_S3).",
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(place.url)
    if status == 507 or code == "QuotaExceeded":
        return StoreFullError(
            f"The quota of {place.url} at {place.endpoint} is used up. Nothing is lost.",
            "Free some space or raise the quota, and run again: finished tasks are not done twice.",
        )
    if code == "ConditionalRequestConflict" or status == 409:
        return ConflictError(f"Others write {place.url} at the same time.")
    return _explain_access(text, code, status, place) or _explain_rest(text, code, status, place)


def _explain_access(text: str, code: str, status: int, place: Place) -> Exception | None:
    """Errors about who we are and whom we trust."""
    if found := _PROVIDER.search(text):
        return ConfigError(
            f"The credentials for S3 could not be renewed: {found[1]}.",
            "Log in again, or see `aws configure list` and `aws sts get-caller-identity`.",
        )
    if code in _REGION_CODES:
        return PipelineError(
            f"The bucket {place.bucket!r} is not at {place.endpoint}: the server says {code}.",
            "Set AWS_REGION to the bucket's region.",
        )
    if code == "RequestTimeTooSkewed":
        return PipelineError(
            f"{place.endpoint} refuses the request: the clocks differ by more than 15 minutes.",
            "Set this machine's clock.",
        )
    if code in _SIGNATURE_CODES:
        return PipelineError(
            f"{place.endpoint} does not accept the keys: {code}.",
            "Check the credentials: `aws configure list` shows where they come from.",
        )
    if status in (401, 403):
        return PipelineError(
            f"{place.endpoint} refuses {place.url}: {code or status}.",
            "Check the keys, and that they may read, write, list and delete there.",
        )
    return None


def _explain_rest(text: str, code: str, status: int, place: Place) -> Exception:
    lower = text.lower()
    if not status and "certificate" in lower:
        return ConfigError(
            f"The certificate of {place.endpoint} is not trusted or not for that name.",
            "Set AWS_CA_BUNDLE to the PEM file of the authority that signed it.",
        )
    if not status and any(word in lower for word in _NO_TLS):
        return ConfigError(
            f"{place.endpoint} does not answer in TLS.",
            "Is it a plain one? Then write http:// in AWS_ENDPOINT_URL_S3.",
        )
    if status in _BUSY_STATUSES or code in _BUSY_CODES:
        return UnreachableError(
            f"{place.endpoint} keeps answering {code or status} for {place.url}.",
            "Try again later, and look at the server's health.",
        )
    if part := _invalid_part(lower):
        return PipelineError(
            f"{place.url} is a name that is no path, or holds one: {part}.",
            "Keep datasets under a prefix that holds nothing else.",
        )
    if status:
        return PipelineError(
            f"{place.endpoint} answered {status} {code}".rstrip() + f" for {place.url}.",
            "Is it an S3 server? Check AWS_ENDPOINT_URL_S3.",
        )
    return UnreachableError(
        f"{place.endpoint} does not answer.",
        "Check the endpoint (AWS_ENDPOINT_URL_S3), the network and the server, and try again.",
    )


def _invalid_part(lower: str) -> str:
    if "empty path segment" in lower or "emptysegment" in lower:
        return "a part between two slashes is empty"
    return "a part is . or .." if "badsegment" in lower else ""


def _text(error: Exception) -> str:
    """What the library says; of boto3's errors the code and status in obstore's form."""
    kind = type(error)
    if kind.__module__.split(".")[0] not in ("boto3", "botocore"):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if found := getattr(cause, "response", None):
            status = found.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return f"<Code>{found.get('Error', {}).get('Code', '')}</Code> status code: {status}"
        cause = cause.__cause__ or cause.__context__
    if _LOGIN_ERRORS.search(kind.__name__):
        return f"External AWS credential provider: {kind.__name__}"
    return str(error)


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""


def _status(text: str) -> int:
    found = _STATUS.search(text)
    return int(found[1]) if found else 0
