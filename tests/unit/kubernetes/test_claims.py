"""Claims of pods, step by step: each may be cut off, and repeated."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes import claims as claims_module
from mlsched.adapters.kubernetes.apis import ApiError
from mlsched.adapters.kubernetes.claims import (
    FINALIZER,
    Claims,
    divide,
    find_unbound,
    has_claim,
    with_claim,
)
from mlsched.adapters.kubernetes.gangs import Gangs
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.pods import build_pod
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.adapters.kubernetes.slices import Allocations, ResourceClaim
from mlsched.adapters.kubernetes.tracks import Track
from mlsched.model.jobs import EndCause, GroupPlacement, Job, Outcome
from tests.unit.kubernetes.conftest import OWNER, own_pod, placed_job

DEVICES = ("gpu.nvidia.com/node-a/gpu-4", "gpu.nvidia.com/node-a/gpu-7")
PLACEMENT = GroupPlacement("node-a", 1000, 0, DEVICES)
UNBOUND = {"nodeName": "", "schedulerName": "mlsched"}
LIST = "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims"
CLAIM = f"{LIST}/train-1-0-gpus"
BINDING = "/api/v1/namespaces/team/pods/train-1-0/binding"


class Server:
    """Keeps claims as the API server does; ``cut`` requests are carried out, then the caller dies.

    Attributes:
        steps: Verb and path of each write.
    """

    def __init__(self) -> None:
        self.claims: dict[str, dict[str, Any]] = {}
        self.steps: list[tuple[str, str]] = []
        self.cut = -1
        self.errors: dict[str, ApiError] = {}

    def _done(self, verb: str, path: str) -> None:
        self.steps.append((verb, path))
        if len(self.steps) - 1 == self.cut:
            raise ConnectionAbortedError("the process was killed")

    async def create(self, path: str, body: bytes) -> bytes:
        if path in self.errors:
            raise self.errors[path]
        if path == BINDING:
            self._done("POST", path)
            return b"{}"
        one = json.loads(body)
        name = one["metadata"]["name"]
        if f"{path}/{name}" in self.claims:
            raise ApiError(409, "AlreadyExists", "it is there")
        one["metadata"]["resourceVersion"] = "1"
        self.claims[f"{path}/{name}"] = one
        self._done("POST", path)
        return json.dumps(one).encode()

    async def get(self, path: str) -> bytes:
        return json.dumps(self.claims[path]).encode()

    async def patch(self, path: str, body: bytes) -> bytes:
        if path in self.errors:
            raise self.errors.pop(path)
        one, change = self.claims[path.removesuffix("/status")], json.loads(body)
        if change["metadata"]["resourceVersion"] != one["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody was faster")
        one["status"] = change["status"]
        one["metadata"]["resourceVersion"] += "1"
        self._done("PATCH", path)
        return json.dumps(one).encode()


def make(server: Server) -> tuple[Claims, Allocations]:
    allocations = Allocations()
    api: Any = server
    reflector = Reflector(api, LIST, ResourceClaim, lambda b, a: _told(allocations, b, a))
    return Claims(api, reflector, allocations), allocations


def _told(allocations: Allocations, *change: ResourceClaim | None) -> None:
    allocations.observe(*change)


def start(server: Server, pod: Pod | None = None, wanted: bool = True) -> Outcome | None:
    async def act() -> Outcome | None:
        maker, _ = make(server)
        one = pod or own_pod(spec=UNBOUND)
        return await maker.start(one, PLACEMENT, OWNER, lambda: wanted)

    return asyncio.run(act())


def other_claim(name: str, *devices: str) -> ResourceClaim:
    keys = [one.split("/") for one in devices]
    results = [{"driver": d, "pool": p, "device": n} for d, p, n in keys]
    metadata = {"name": name, "namespace": "team", "resourceVersion": "1", "uid": name}
    body = {"metadata": metadata, "status": {"allocation": {"devices": {"results": results}}}}
    return msgspec.json.decode(json.dumps(body), type=ResourceClaim)


def test_a_claim_is_made_then_allocated_and_reserved_at_once_then_the_pod_is_bound() -> None:
    server = Server()
    assert start(server) is None
    assert server.steps == [("POST", LIST), ("PATCH", f"{CLAIM}/status"), ("POST", BINDING)]
    claim = server.claims[CLAIM]
    assert claim["metadata"]["finalizers"] == [FINALIZER]
    assert claim["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    exactly = claim["spec"]["devices"]["requests"][0]["exactly"]
    assert (exactly["deviceClassName"], exactly["count"]) == ("gpu.nvidia.com", 2)
    results = claim["status"]["allocation"]["devices"]["results"]
    assert [one["device"] for one in results] == ["gpu-4", "gpu-7"]
    assert claim["status"]["reservedFor"][0]["uid"] == "pod-1-0"


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_start_that_was_cut_off_anywhere_is_finished_by_the_next_controller(cut: int) -> None:
    server = Server()
    server.cut = cut
    with pytest.raises(ConnectionAbortedError):
        start(server)
    assert start(server) is None
    assert server.steps[-1] == ("POST", BINDING)
    assert [step for step in server.steps if step[0] == "PATCH"] == [("PATCH", f"{CLAIM}/status")]
    assert len(server.claims) == 1


def test_a_claim_that_somebody_changed_meanwhile_is_read_again() -> None:
    server = Server()
    server.errors[f"{CLAIM}/status"] = ApiError(409, "Conflict", "somebody was faster")
    assert start(server) is None
    assert server.steps[-1] == ("POST", BINDING)


def test_a_claim_of_somebody_else_under_our_name_is_left_alone() -> None:
    server = Server()
    metadata = {"name": "train-1-0-gpus", "namespace": "team", "resourceVersion": "1"}
    server.claims[CLAIM] = {"metadata": metadata}
    outcome = start(server)
    assert outcome is not None
    assert outcome.cause is EndCause.CANNOT_START
    assert "not of this job" in outcome.message
    assert server.steps == []


def test_missing_rights_are_told_in_the_words_of_the_api_server() -> None:
    server = Server()
    text = "status.allocation: Forbidden: changing it requires binding"
    server.errors[f"{CLAIM}/status"] = ApiError(422, "Invalid", text)
    outcome = start(server)
    assert outcome is not None
    assert outcome.cause is EndCause.CANNOT_START
    assert text in outcome.message


def test_a_pod_that_vanished_is_placed_again() -> None:
    server = Server()
    server.errors[BINDING] = ApiError(404, "NotFound", "no such pod")
    outcome = start(server)
    assert outcome is not None
    assert outcome.cause is EndCause.REVOKED


def test_an_attempt_that_must_end_is_not_bound() -> None:
    server = Server()
    assert start(server, wanted=False) is None
    assert ("POST", BINDING) not in server.steps


def test_devices_are_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before the claim that holds one is freed; in vain it is placed elsewhere."""
    monkeypatch.setattr(claims_module, "LOOK_S", 0)
    server = Server()
    holder = other_claim("old", DEVICES[1])

    async def act(frees: bool) -> Outcome | None:
        maker, allocations = make(server)
        allocations.observe(None, holder)
        looks = 0

        def is_wanted() -> bool:
            nonlocal looks
            looks += 1
            assert ("PATCH", f"{CLAIM}/status") not in server.steps or looks > 3
            if looks == 3 and frees:
                allocations.observe(holder, other_claim("old"))
            return True

        return await maker.start(own_pod(spec=UNBOUND), PLACEMENT, OWNER, is_wanted)

    monkeypatch.setattr(claims_module, "FREE_S_MAX", -1)
    outcome = asyncio.run(act(frees=False))
    assert outcome is not None
    assert outcome.cause is EndCause.REVOKED
    assert "team/old" in outcome.message
    monkeypatch.setattr(claims_module, "FREE_S_MAX", 60)
    assert asyncio.run(act(frees=True)) is None
    assert server.steps[-1] == ("POST", BINDING)


def gpu_job(tasks: int = 1) -> Job:
    job = placed_job(gpus_per_node=2, tasks_per_node=tasks)
    return replace(job, placements=(PLACEMENT,))


def test_a_pod_with_a_claim_is_made_without_a_node_and_without_counting_gpus() -> None:
    job = gpu_job(tasks=2)
    plain = build_pod(job, OWNER, 0, 0)
    spec = with_claim(plain, PLACEMENT)["spec"]
    assert "nodeName" not in spec
    assert spec["schedulerName"] == "mlsched"
    assert spec["resourceClaims"] == [{"name": "gpus", "resourceClaimName": "train-1-0-gpus"}]
    for rank, container in enumerate(spec["containers"]):
        claims = [{"name": "gpus", "request": f"rank-{rank}"}]
        assert container["resources"]["claims"] == claims
        assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert plain["spec"]["nodeName"] == "node-a"


def test_a_pod_on_slots_stays_as_it_is() -> None:
    placement = GroupPlacement("node-a", 1000, 0, ("node-a/gpu-0",))
    body = build_pod(replace(placed_job(gpus_per_node=1), placements=(placement,)), OWNER, 0, 0)
    assert with_claim(body, placement) is body
    assert not has_claim(placement)


def test_devices_are_divided_over_containers_in_order() -> None:
    assert divide(PLACEMENT, ["rank-0", "rank-1"]) == {
        "rank-0": DEVICES[:1],
        "rank-1": DEVICES[1:],
    }


def test_pods_that_wait_for_devices_are_found_and_no_others() -> None:
    track = Track(gpu_job(), OWNER)
    api: Any = None
    for pod, count in ((own_pod(spec=UNBOUND), 1), (own_pod(), 0), (own_pod(attempt=2), 0)):
        pods = Reflector(api, "", Pod)
        pods.objects = {pod.metadata.key: pod}
        assert len(find_unbound(track, pods)) == count


def test_own_pods_that_wait_for_devices_are_no_foreign_pods() -> None:
    gangs = Gangs(lambda: 1, lambda pod, why: None)
    gangs.observe(None, own_pod(spec=UNBOUND))
    assert gangs.flush() == []
    gangs.observe(None, own_pod(spec=UNBOUND, metadata={"ownerReferences": []}))
    assert len(gangs.flush()) == 1
