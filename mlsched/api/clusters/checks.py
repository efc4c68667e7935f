"""What a context can be asked about itself: the server, what is installed, and rights."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.objects import GROUP_PATH

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

RIGHTS = (
    ("create", "mlsched.io", "mljobs", "", True),
    ("get", "mlsched.io", "mljobs", "", True),
    ("list", "mlsched.io", "mljobs", "", True),
    ("watch", "mlsched.io", "mljobs", "", True),
    ("patch", "mlsched.io", "mljobs", "", True),
    ("get", "", "pods", "", True),
    ("list", "", "pods", "", True),
    ("get", "", "pods", "log", True),
    ("list", "", "nodes", "", False),
    ("list", "", "pods", "", False),
    ("list", "mlsched.io", "mljobs", "", False),
    ("list", "mlsched.io", "mlqueues", "", False),
    ("list", "mlsched.io", "gpunodes", "", False),
    ("list", "resource.k8s.io", "resourceslices", "", False),
    ("list", "resource.k8s.io", "resourceclaims", "", False),
    ("list", "scheduling.k8s.io", "podgroups", "", False),
)
"""Verb, group, resource, subresource, and whether in the namespace: else for ``why`` alone."""


class Right(Struct, frozen=True):
    """Whether the user may do one thing."""

    text: str
    is_allowed: bool
    is_needed: bool
    """False for what only ``why`` and ``gpus`` use."""


def read_server(connections: Connections) -> str:
    """The version of Kubernetes.

    Raises:
        ApiError, NoAnswerError: it does not say.
    """
    found: dict[str, Any] = msgspec.json.decode(connections.get("/version"))
    return str(found.get("gitVersion", ""))


def list_kinds(connections: Connections) -> list[str]:
    """Names of mlsched's resources that are served; none where it is not installed.

    Raises:
        ApiError, NoAnswerError: as `read_server`.
    """
    try:
        found: dict[str, Any] = msgspec.json.decode(connections.get(GROUP_PATH))
    except ApiError as error:
        if error.code == 404:
            return []
        raise
    return [str(one["name"]) for one in found.get("resources", ()) if "/" not in one["name"]]


def review_rights(connections: Connections, namespace: str) -> list[Right]:
    """What the user may do of what the commands need.

    Raises:
        ApiError, NoAnswerError: as `read_server`.
    """
    rights = []
    for verb, group, resource, part, is_inside in RIGHTS:
        asked = {"verb": verb, "group": group, "resource": resource, "subresource": part}
        if is_inside:
            asked["namespace"] = namespace
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        found: dict[str, Any] = msgspec.json.decode(
            connections.create(REVIEWS, msgspec.json.encode(body))
        )
        where = f"in {namespace}" if is_inside else "in all namespaces"
        name = f"{verb} {resource}{'/' + part if part else ''} {where}"
        allowed = bool(found.get("status", {}).get("allowed"))
        rights.append(Right(name, allowed, is_inside))
    return rights
