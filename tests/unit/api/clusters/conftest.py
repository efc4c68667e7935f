"""MLJobs as an API server sends them, and an API server in a dictionary."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlsched.adapters.kubernetes.announcements import LEASE_NAME, LEASES
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.kubeconfigs import Static
from mlsched.api.clusters.clients import ClusterClient
from mlsched.api.clusters.records import Record, decode_record
from mlsched.config import Paths

NOW_S = 1.8e9
JOBS = "/apis/mlsched.io/v1alpha1/namespaces/team/mljobs"


def at(time_s: float) -> str:
    """As Kubernetes writes times."""
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")


def mljob(name: str = "train", version: int = 1, **more: Any) -> dict[str, Any]:
    """An MLJob; ``status``, ``spec`` and ``annotations`` are added where given."""
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": f"2026-11-26T13:00:{version % 60:02d}Z",
            "annotations": more.get("annotations", {}),
        },
        "spec": {"command": ["true"], "image": "i:1", **more.get("spec", {})},
        **({"status": more["status"]} if "status" in more else {}),
    }


def record(name: str = "train", version: int = 1, **more: Any) -> Record:
    """The same, read."""
    return decode_record(json.dumps(mljob(name, version, **more)).encode())


class FakeConnections:
    """Objects by path. ``failures`` are raised by the next creates, before they do anything;
    ``lost`` after it; ``writers`` change the metadata of what is merged into, just before."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.forbidden: set[str] = set()
        self.broken: set[str] = set()
        self.missing: set[str] = set()
        self.lost: list[Exception] = []
        self.writers: list[Callable[[dict[str, Any]], object]] = []

    def now_s(self) -> float:
        """The clock of the API server."""
        return NOW_S

    def lease(self, namespace: str = "mlsched", **more: Any) -> None:
        """A Lease that somebody renewed just now; ``annotations``, and what its spec has else."""
        spec = {"holderIdentity": "pod_1_abc", "leaseDurationSeconds": 15, "renewTime": at(NOW_S)}
        metadata = {"name": LEASE_NAME, "namespace": namespace}
        metadata |= {"annotations": more.pop("annotations", {})}
        metadata |= {"creationTimestamp": more.pop("created", at(NOW_S - 60))}
        self.objects[f"{LEASES}/{namespace}"] = {"metadata": metadata, "spec": spec | more}

    def put(self, body: dict[str, Any]) -> None:
        """Store an MLJob."""
        self.objects[f"{JOBS}/{body['metadata']['name']}"] = body

    def get(self, path: str, params: Any = None) -> bytes:
        """An object, or a list of those below a path."""
        self.requests.append(("GET", path))
        self._check(path)
        if path in self.objects:
            return json.dumps(self.objects[path]).encode()
        if path.rpartition("/")[0].endswith("/mljobs"):
            name = path.rpartition("/")[2]
            raise ApiError(404, "NotFound", f'mljobs.mlsched.io "{name}" not found')
        items = [one for key, one in self.objects.items() if key.startswith(f"{path}/")]
        if path == "/apis/mlsched.io/v1alpha1/mljobs":
            items = [one for key, one in self.objects.items() if key.startswith(JOBS)]
        return json.dumps({"metadata": {"resourceVersion": "9"}, "items": items}).encode()

    def create(self, path: str, body: bytes, params: Any = None) -> bytes:
        """Store an object, unless it is a dry run."""
        self.requests.append(("POST", path))
        self._check(path)
        found = msgspec.json.decode(body)
        key = f"{path}/{found['metadata']['name']}"
        if key in self.objects:
            raise ApiError(409, "AlreadyExists", f"{key} already exists")
        if not params:
            self.objects[key] = found
        if self.lost:
            raise self.lost.pop()
        return body

    def merge(self, path: str, body: bytes) -> bytes:
        """Merge annotations, into one version where one is named."""
        self.requests.append(("PATCH", path))
        found = msgspec.json.decode(body)
        metadata = self.objects[path]["metadata"]
        if self.writers:
            self.writers.pop()(metadata)
        known = metadata.get("resourceVersion")
        if found["metadata"].get("resourceVersion", known) != known:
            raise ApiError(409, "Conflict", "somebody was faster")
        metadata.setdefault("annotations", {}).update(found["metadata"]["annotations"])
        metadata["resourceVersion"] = str(int(known or 0) + 1)
        return json.dumps(self.objects[path]).encode()

    def _check(self, path: str) -> None:
        if path in self.missing:
            kind, name = path.split("/")[-2:]
            raise ApiError(404, "NotFound", f'{kind} "{name}" not found')
        if path in self.broken:
            raise ApiError(500, "InternalError", "in trouble")
        if path in self.forbidden:
            raise ApiError(403, "Forbidden", f'User "alice" cannot list resource "x" at {path}')


Served = tuple[ClusterClient, FakeConnections]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """A client of context prod, namespace team, and its API server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("mlsched.api.clusters.clients.time.sleep", lambda seconds: None)
    access = Access("http://127.0.0.1:1", Static("http://127.0.0.1:1"), "team", "prod")
    client = ClusterClient(Paths.from_environment(), access)
    server = FakeConnections(access)
    client.connections = server  # type: ignore[assignment]
    return client, server


@pytest.fixture
def submit(served: Served) -> Callable[..., dict[str, Any]]:
    """Submit a command."""

    def send(key: str = "", name: str = "", **spec: Any) -> dict[str, Any]:
        document = {
            "apiVersion": "mlsched.io/v1alpha1",
            "kind": "MLJob",
            "metadata": {"name": name} if name else {},
            "spec": {"command": ["python", "train.py"], "image": "i:1", **spec},
        }
        found: dict[str, Any] = served[0].call(
            "submit", document=document, idempotency_key=key, user="alice"
        )
        return found

    return send
