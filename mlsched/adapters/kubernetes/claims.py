"""Pods whose GPUs are claimed: where a DRA driver publishes them, mlsched chooses the devices.

The order is what makes the kubelet start a pod at once: the pod is created without a node, its
claim is allocated and reserved for the pod's uid in one write, then the pod is bound. A pod that is
bound first would wait a minute and a half for the kubelet's next look. Every step may be repeated,
by another controller too: names follow from the attempt, and the devices stand in the job.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.binders import bind_pod
from mlsched.adapters.kubernetes.gangs import SCHEDULER_NAME
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.pods import Json, Owner, owner_reference
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.adapters.kubernetes.slices import Allocations, ResourceClaim, is_published, split_name
from mlsched.adapters.kubernetes.tracks import Track, key_of, key_of_attempt
from mlsched.model.jobs import EndCause, GroupPlacement, Outcome

FINALIZER = "resource.kubernetes.io/delete-protection"
"""With it kube-controller-manager frees the devices when the pod has ended."""

CLAIM_OF_POD = "gpus"
"""What a pod calls its claim."""

FREE_S_MAX = 60.0
"""How long devices may still belong to a claim whose pod has ended."""

LOOK_S = 0.5
GPU_PREFIX = "nvidia.com/"


def has_claim(placement: GroupPlacement) -> bool:
    """Whether the devices of a group are given by a claim."""
    return any(is_published(name) for name in placement.devices)


def claim_name(pod: str) -> str:
    """Name of the claim of a pod: the same whoever makes it, and only for this attempt."""
    return f"{pod}-gpus"


def with_claim(body: Json, placement: GroupPlacement) -> Json:
    """A pod that is made without a node and takes its GPUs from its claim.

    Args:
        body: The pod as `build_pod` made it.
        placement: Of its group; one without devices of drivers leaves the pod as it is.
    """
    if not has_claim(placement):
        return body
    spec = {key: value for key, value in body["spec"].items() if key != "nodeName"}
    spec["schedulerName"] = SCHEDULER_NAME
    spec["resourceClaims"] = [
        {"name": CLAIM_OF_POD, "resourceClaimName": claim_name(body["metadata"]["name"])}
    ]
    spec["containers"] = [_container(one) for one in spec["containers"]]
    return {**body, "spec": spec}


def _container(body: Json) -> Json:
    resources = dict(body["resources"])
    for kind in ("requests", "limits"):
        kept = {n: v for n, v in resources.get(kind, {}).items() if not n.startswith(GPU_PREFIX)}
        resources[kind] = kept
    resources["claims"] = [{"name": CLAIM_OF_POD, "request": body["name"]}]
    return {**body, "resources": resources}


def divide(placement: GroupPlacement, containers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The devices of each container of a pod, in the order of both.

    Args:
        placement: Of the pod's group.
        containers: Names of the pod's own containers.
    """
    names = list(containers)
    size = len(placement.devices) // max(1, len(names))
    return {n: placement.devices[i * size : (i + 1) * size] for i, n in enumerate(names)}


def build_claim(
    pod: Pod, owner: Owner, shares: Mapping[str, tuple[str, ...]], classes: Mapping[str, str]
) -> Json:
    """The claim of a pod, owned by its MLJob, with one request a container.

    Args:
        pod: Whose it is.
        owner: The MLJob.
        shares: Devices by container.
        classes: Names of DeviceClasses by driver, where they differ.
    """
    requests = []
    for name, devices in shares.items():
        driver = split_name(devices[0])[0]
        wanted = {"deviceClassName": classes.get(driver, driver), "count": len(devices)}
        requests.append({"name": name, "exactly": {**wanted, "allocationMode": "ExactCount"}})
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "name": claim_name(pod.metadata.name),
            "namespace": pod.metadata.namespace,
            "labels": pod.metadata.labels,
            "finalizers": [FINALIZER],
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {"devices": {"requests": requests}},
    }


def build_allocation(
    claim: ResourceClaim, pod: Pod, node: str, shares: Mapping[str, tuple[str, ...]]
) -> Json:
    """The patch that gives devices to a claim and the claim to a pod."""
    results = []
    for name, devices in shares.items():
        for driver, pool, device in map(split_name, devices):
            one = {"request": name, "driver": driver, "pool": pool, "device": device}
            results.append(one)
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    consumer = {"resource": "pods", "name": pod.metadata.name, "uid": pod.metadata.uid}
    return {
        "metadata": {"resourceVersion": claim.metadata.resource_version},
        "status": {
            "allocation": {
                "devices": {"results": results},
                "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
            },
            "reservedFor": [consumer],
        },
    }


def find_unbound(track: Track, pods: Reflector[Pod]) -> list[tuple[Pod, GroupPlacement]]:
    """Pods of an attempt that wait for their devices, with what they were placed on."""
    key = key_of_attempt(track.job, track.owner)
    groups = [(pods.objects.get(track.pod_key(g)), p) for g, p in enumerate(track.job.placements)]
    return [
        (pod, placement)
        for pod, placement in groups
        if pod is not None
        and key_of(pod) == key
        and not pod.spec.node_name
        and has_claim(placement)
    ]


class Claims:
    """Gives devices to pods that were created without a node, and binds them.

    Args:
        api: Where claims are made.
        claims: The copy of all claims.
        allocations: Who holds what, by that copy.
        classes: Names of DeviceClasses by driver, where they differ.
        on_problem: Takes one line for the log.
    """

    def __init__(
        self,
        api: Api,
        claims: Reflector[ResourceClaim],
        allocations: Allocations,
        classes: Mapping[str, str] | None = None,
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._api = api
        self._claims = claims
        self._allocations = allocations
        self._classes = dict(classes or {})
        self._on_problem = on_problem

    async def start_all(self, track: Track, pods: Reflector[Pod]) -> None:
        """Claim devices for the pods of an attempt that were made without a node, and bind them.

        What goes wrong for good is the attempt's verdict.

        Args:
            track: The attempt.
            pods: The copy of all pods.
        """
        starts = [
            self.start(pod, placement, track.owner, lambda: track.verdict is None)
            for pod, placement in find_unbound(track, pods)
        ]
        for outcome in await asyncio.gather(*starts):
            if outcome is not None:
                track.rule(outcome)

    async def start(
        self, pod: Pod, placement: GroupPlacement, owner: Owner, is_wanted: Callable[[], bool]
    ) -> Outcome | None:
        """Claim the devices of a pod and bind it; how the attempt ends if that cannot be.

        Args:
            pod: One without a node.
            placement: Where to, and with which devices.
            owner: Its MLJob.
            is_wanted: Whether the attempt is still to run: asked again before each step.
        """
        names = [one.name for one in pod.spec.containers if one.name.startswith("rank-")]
        shares = divide(placement, names)
        try:
            claim = await self._make(pod, owner, shares)
            if not await self._wait_until_free(claim, placement, is_wanted):
                return self._held(claim, placement) if is_wanted() else None
            await self._allocate(claim, pod, placement.node, shares)
        except ApiError as error:
            return _refusal(error, pod) if is_wanted() else None
        if not is_wanted():
            return None
        wrong = await bind_pod(self._api, pod, placement.node, self._on_problem)
        return Outcome(EndCause.REVOKED, message=wrong) if wrong and is_wanted() else None

    def _path(self, pod: Pod, name: str = "") -> str:
        path = f"/apis/resource.k8s.io/v1/namespaces/{pod.metadata.namespace}/resourceclaims"
        return f"{path}/{name}" if name else path

    async def _make(
        self, pod: Pod, owner: Owner, shares: Mapping[str, tuple[str, ...]]
    ) -> ResourceClaim:
        """The claim, made now or by an earlier try.

        Raises:
            ApiError: refused; also when one of this name belongs to somebody else.
        """
        body = build_claim(pod, owner, shares, self._classes)
        encoded = msgspec.json.encode(body)
        path = self._path(pod)
        try:
            found = await insist(lambda: self._api.create(path, encoded), self._on_problem)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return await self._get(pod, owner)
        return self._claims.put(found)

    async def _get(self, pod: Pod, owner: Owner) -> ResourceClaim:
        name = claim_name(pod.metadata.name)
        path = self._path(pod, name)
        found = await insist(lambda: self._api.get(path), self._on_problem)
        claim = self._claims.put(found)
        if owner.uid not in [one.uid for one in claim.metadata.owner_references]:
            raise ApiError(409, "", f"a resourceclaim named {name} exists that is not of this job")
        return claim

    async def _wait_until_free(
        self, claim: ResourceClaim, placement: GroupPlacement, is_wanted: Callable[[], bool]
    ) -> bool:
        """Wait for claims whose pods have ended: the API server would give a device twice."""
        deadline_s = time.monotonic() + FREE_S_MAX
        while self._others(claim, placement):
            if not is_wanted() or time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    def _others(self, claim: ResourceClaim, placement: GroupPlacement) -> list[str]:
        key = claim.metadata.key
        held = (self._allocations.holders(name, key) for name in placement.devices)
        return sorted(set().union(*held))

    def _held(self, claim: ResourceClaim, placement: GroupPlacement) -> Outcome:
        others = ", ".join(self._others(claim, placement))
        text = f"its devices are held by other claims: {others}"
        return Outcome(EndCause.REVOKED, message=text)

    async def _allocate(
        self,
        claim: ResourceClaim,
        pod: Pod,
        node: str,
        shares: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Give the devices to the claim and the claim to the pod, over whatever version there is.

        Raises:
            ApiError: refused for good.
        """
        path = self._path(pod, claim.metadata.name)
        while pod.metadata.uid not in [one.uid for one in claim.status.reserved_for]:
            body = msgspec.json.encode(build_allocation(claim, pod, node, shares))
            try:
                found = await insist(self._patching(path, body), self._on_problem)
            except ApiError as error:
                if error.code != 409:
                    raise
                found = await insist(lambda: self._api.get(path), self._on_problem)
            claim = self._claims.put(found)

    def _patching(self, path: str, body: bytes) -> Callable[[], Awaitable[bytes]]:
        return lambda: self._api.patch(f"{path}/status", body)


def _refusal(error: ApiError, pod: Pod) -> Outcome:
    if error.code == 404:
        text = f"the claim of pod {pod.metadata.name} was deleted, and not by mlsched"
        return Outcome(EndCause.REVOKED, message=text)
    text = f"the API server refused its claim: {error.message}"
    return Outcome(EndCause.CANNOT_START, message=text)
