"""What an API server refuses, for people."""

from __future__ import annotations

import pytest

from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.api.clusters.problems import translate
from mlsched.errors import (
    ConfigError,
    ConflictError,
    NotFoundError,
    PermanentError,
    SpecError,
    UnreachableError,
)

FORBIDDEN = (
    'mljobs.mlsched.io is forbidden: User "bob" cannot create resource "mljobs" in API group '
    '"mlsched.io" in the namespace "team"'
)


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (NoAnswerError("refused"), UnreachableError, 104),
        (ApiError(401, "Unauthorized", "Unauthorized"), ConfigError, 1),
        (ApiError(403, "Forbidden", FORBIDDEN), PermanentError, 1),
        (ApiError(403, "Forbidden", "no"), PermanentError, 1),
        (ApiError(404, "", "404 page not found"), ConfigError, 1),
        (ApiError(404, "NotFound", 'mljobs "x" not found'), NotFoundError, 102),
        (ApiError(409, "Conflict", "changed"), ConflictError, 1),
        (ApiError(422, "Invalid", "spec.nodes"), SpecError, 2),
        (ApiError(429, "TooManyRequests", "slow"), UnreachableError, 104),
        (ApiError(503, "", "down"), UnreachableError, 104),
        (ApiError(405, "MethodNotAllowed", "no"), PermanentError, 1),
    ],
)
def test_each_refusal_has_its_error_and_exit_code(error, kind, status):
    found = translate(error, "prod")
    assert type(found) is kind
    assert found.exit_status == status
    assert found.message


def test_missing_rights_say_whom_to_ask_for_what():
    found = translate(ApiError(403, "Forbidden", FORBIDDEN), "prod")
    assert found.message == "user bob may not create mljobs.mlsched.io in the namespace team."
    assert "the verb create on mljobs.mlsched.io in the namespace team" in found.hint


def test_a_missing_kind_says_how_to_install():
    text = "the server could not find the requested resource"
    found = translate(ApiError(404, "NotFound", text), "prod")
    assert "not installed" in found.message
    assert "mlsched controller crds | kubectl apply --server-side -f -" in found.hint


def test_a_namespace_that_is_not_there_is_no_missing_job():
    found = translate(ApiError(404, "NotFound", 'namespaces "team" not found'), "prod")
    assert isinstance(found, ConfigError)
    assert found.message == "there is no namespace team in the cluster of context prod."
    assert "kubectl --context prod get namespaces" in found.hint
