"""The rights that ``doctor`` asks for are those that commands use."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mlsched.adapters.kubernetes.announcements import LEASES
from mlsched.api.clusters.checks import REVIEWS, RIGHTS, review_rights
from mlsched.api.clusters.outputs import PodOutputs
from tests.unit.api.clusters.conftest import Served, mljob

PATH = re.compile(
    r"/apis?(?:/(?P<group>[a-z0-9.]+))?/v\w+(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>\w+))?)?"
)
PODS = "/api/v1/namespaces/team/pods"


def right(method: str, path: str) -> tuple[str, str, str, str, bool]:
    """The right that a request needs."""
    found = PATH.fullmatch(path)
    assert found is not None, path
    reading = "get" if found["name"] else "list"
    verb = {"GET": reading, "POST": "create", "PATCH": "patch"}[method]
    return (
        verb,
        found["group"] or "",
        found["resource"],
        found["part"] or "",
        bool(found["namespace"]),
    )


def test_whatever_a_command_asks_for_is_checked(served: Served) -> None:
    client, server = served
    running = {"state": "RUNNING", "attempt": 1}
    server.put(mljob("runs", status=running))
    server.put(mljob("waits"))
    for op, args in (
        ("list", {}), ("show", {"job": "runs"}), ("why", {"job": "waits"}), ("gpus", {}),
        ("cancel", {"jobs": ["waits"]}), ("retry", {"job": "runs"}), ("node", {}), ("report", {}),
    ):  # fmt: skip
        client.call(op, **args)
    with PodOutputs(server) as outputs:  # type: ignore[arg-type]
        outputs.fetch({"id": "team/runs"}, 1)
    used = {right(method, path) for method, path in server.requests if path != LEASES}
    assert used <= set(RIGHTS)
    assert len(used) > 10


@pytest.mark.parametrize(
    ("refused", "text", "is_needed"),
    [
        ({"verb": "get", "resource": "mljobs"}, "get mljobs in team", True),
        ({"verb": "get", "resource": "pods", "subresource": "log"}, "get pods/log in team", True),
        ({"resource": "resourceslices"}, "list resourceslices in all namespaces", False),
    ],
)
def test_what_may_not_be_done_is_named(
    served: Served, refused: dict[str, str], text: str, is_needed: bool
) -> None:
    def create(path: str, body: bytes) -> bytes:
        assert path == REVIEWS
        asked: dict[str, Any] = json.loads(body)["spec"]["resourceAttributes"]
        return json.dumps({"status": {"allowed": not refused.items() <= asked.items()}}).encode()

    served[1].create = create  # type: ignore[method-assign, assignment]
    found = [one for one in review_rights(served[0].connections, "team") if not one.is_allowed]
    assert [(one.text, one.is_needed) for one in found] == [(text, is_needed)]
