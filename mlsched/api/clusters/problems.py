"""What an API server refuses, as errors of mlsched with what to do next."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import msgspec

from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.errors import (
    ConfigError,
    ConflictError,
    MlschedError,
    NotFoundError,
    PermanentError,
    SpecError,
    UnreachableError,
)

NOT_INSTALLED_HINT = (
    "Whoever runs the cluster installs it: helm install mlsched deploy/helm/mlsched, or "
    "'mlsched controller crds | kubectl apply --server-side -f -' and 'mlsched controller'."
)
_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?P<where>.*)'
)

Trouble = ApiError | NoAnswerError | msgspec.DecodeError
TROUBLES = (ApiError, NoAnswerError, msgspec.DecodeError)
"""How a request fails; the last where somebody answers who is no API server."""

_NAMESPACE = re.compile(r'namespaces "([^"]*)" not found')


@contextlib.contextmanager
def translated(context: str) -> Iterator[None]:
    """Errors of the API server as errors for users.

    Raises:
        MlschedError: as `translate` has it.
    """
    try:
        yield
    except TROUBLES as error:
        raise translate(error, context) from error


def translate(error: Trouble, context: str) -> MlschedError:
    """The error of mlsched that says the same, and what to do."""
    if isinstance(error, ApiError):
        return _refused(error, context)
    if isinstance(error, NoAnswerError):
        return UnreachableError(
            f"the API server of context {context} does not answer: {error.message}",
            f"'kubectl --context {context} version' and 'mlsched -c {context} doctor' tell more.",
        )
    return UnreachableError(
        f"the API server of context {context} answered what cannot be read: {error}.",
        "Perhaps it is none: 'kubectl config view' shows its address. Or mlsched is too old.",
    )


def _refused(error: ApiError, context: str) -> MlschedError:
    special = {401: _unauthorized, 403: _forbidden, 404: _missing}.get(error.code)
    if special is not None:
        return special(error, context)
    if error.code == 409:
        return ConflictError(f"somebody else was faster: {error.message}", "Try again.")
    if error.code in (400, 413, 422):
        return SpecError(f"the API server refuses it: {error.message}")
    if error.is_temporary:
        return UnreachableError(
            f"the API server of context {context} is in trouble: {error}", "Try again."
        )
    return PermanentError(f"the API server of context {context} refuses: {error}")


def _unauthorized(error: ApiError, context: str) -> MlschedError:
    return ConfigError(
        f"the API server of context {context} does not accept your credentials.",
        "They may have run out: log in again, or get a new kubeconfig.",
    )


def _missing(error: ApiError, context: str) -> MlschedError:
    """A kind that is not served, or an object that is not there."""
    unserved = (
        error.reason != "NotFound" or "could not find the requested resource" in error.message
    )
    if unserved:
        return ConfigError(
            f"mlsched is not installed in the cluster of context {context}.", NOT_INSTALLED_HINT
        )
    namespace = _NAMESPACE.fullmatch(error.message)
    if namespace is not None:
        return ConfigError(
            f"there is no namespace {namespace[1]} in the cluster of context {context}.",
            f"'kubectl --context {context} get namespaces' shows them; --namespace names one.",
        )
    return NotFoundError(f"{error.message}.", f"Run 'mlsched -c {context} ls --all'.")


def _forbidden(error: ApiError, context: str) -> MlschedError:
    found = _FORBIDDEN.search(error.message)
    if found is None:
        return PermanentError(
            f"the API server of context {context} does not allow it: {error.message}",
            f"'mlsched -c {context} doctor' shows what you may do.",
        )
    resource = found["resource"] + (f".{found['group']}" if found["group"] else "")
    where = found["where"].strip().replace('"', "")
    return PermanentError(
        f"user {found['user']} may not {found['verb']} {resource} {where}.".replace(" .", "."),
        f"Ask whoever runs the cluster for the verb {found['verb']} on {resource} {where}; "
        f"'mlsched -c {context} doctor' shows all that is needed.",
    )
