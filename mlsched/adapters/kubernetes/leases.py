"""One active controller at a time, by a Lease; and the clock that ends one whose lease ran out.

A lease is not a fence: what fences is that every write is by fixed name, version or uid. The lease
keeps two controllers from working against each other, and its count of changes of hands is the
epoch that statuses carry.
Source: leader election of client-go: a record that has not changed for its duration, by the
observer's own monotonic clock, is free. Of the holder's duration and ours the longer one counts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import Struct, field

from mlsched.adapters.kubernetes.apis import Api, ApiError, NoAnswerError
from mlsched.adapters.kubernetes.objects import Metadata
from mlsched.errors import PermanentError

DURATION_S_MAX = 3600
"""A holder that asks for more would leave a cluster alone for too long."""


class LeaseLostError(PermanentError):
    """This controller must not write any more."""


class LeaseSpec(Struct, rename="camel"):
    """Who holds a lease, since when, for how long."""

    holder_identity: str | None = ""
    lease_duration_seconds: int = 15
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class LeaseObject(Struct):
    """One Lease of coordination.k8s.io."""

    metadata: Metadata
    spec: LeaseSpec = field(default_factory=LeaseSpec)


_decode_lease = msgspec.json.Decoder(LeaseObject).decode


class Timing(Struct, frozen=True):
    """Seconds. Source: the defaults of kube-scheduler and kube-controller-manager."""

    duration_s: float = 15.0
    """A record that has not changed for so long is free."""
    deadline_s: float = 10.0
    """A holder that could not renew for so long stops: less than the duration, so that two never
    act at once."""
    period_s: float = 2.0


class Lease:
    """Acquires and holds one lease.

    Args:
        identity: Who we are: unique among all controllers.
        annotations: Stand on the lease for as long as we hold it.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self.epoch = 0
        self.lost = asyncio.Event()
        """Set once a write was refused: what it was part of is undone, so this process must end."""
        self._api = api
        self._namespace = namespace
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._annotations = dict(annotations or {})
        self._held_until_s = 0.0
        self._why = "the lease ran out before it was renewed."
        self._seen = ("", 0.0)

    def rise_above(self, epoch: int) -> None:
        """Take an epoch above one that was found in a record: the lease was deleted meanwhile.

        The next renewal writes it down.
        """
        self.epoch = max(self.epoch, epoch + 1)

    def give_up(self, why: str) -> None:
        """Write nothing any more, such as when a newer controller was found."""
        self._why = why
        self.lost.set()

    def check(self) -> None:
        """Raise unless the lease is held by our own clock; call before each write.

        Raises:
            LeaseLostError: it ran out, also when this process was stopped for a while.
        """
        if self.lost.is_set() or time.monotonic() >= self._held_until_s:
            self.lost.set()
            raise LeaseLostError(self._why, "Another controller goes on.")

    async def acquire(self) -> int:
        """Wait until the lease is ours; the epoch, which only ever rises."""
        while True:
            try:
                if await self._try():
                    return self.epoch
            except (ApiError, NoAnswerError):
                pass
            await asyncio.sleep(self._timing.period_s)

    async def hold(self) -> None:
        """Renew until that fails for too long.

        Raises:
            LeaseLostError: always, in the end.
        """
        while True:
            await asyncio.sleep(self._timing.period_s)
            try:
                async with asyncio.timeout(self._timing.deadline_s / 2):  # wait_for hides cancels
                    held = await self._try()
            except (ApiError, NoAnswerError, TimeoutError):
                self.check()
                continue
            if not held:
                self._held_until_s = 0.0
                raise LeaseLostError("somebody else took the lease.")

    async def release(self) -> None:
        """Give the lease back, so that the next one need not wait; nothing is written any more."""
        self._held_until_s = 0.0
        try:
            found = await self._read()
            if found is not None and found.spec.holder_identity == self._identity:
                await self._write(found, "", found.spec.lease_transitions)
        except (ApiError, NoAnswerError):
            pass

    async def _try(self) -> bool:
        """Take or renew the lease; whether it is ours now.

        Raises:
            ApiError, NoAnswerError: nobody knows; the same again tells.
        """
        asked_s = time.monotonic()
        found = await self._read()
        try:
            if found is None:
                await self._create()
            elif found.spec.holder_identity == self._identity:
                epoch = max(self.epoch, found.spec.lease_transitions)
                await self._write(found, self._identity, epoch)
                self.epoch = epoch
            elif self._is_free(found):
                await self._write(found, self._identity, found.spec.lease_transitions + 1)
                self.epoch = found.spec.lease_transitions + 1
            else:
                return False
        except ApiError as error:
            if (
                error.code == 409
                and found is not None
                and found.spec.holder_identity == (self._identity)
            ):
                raise NoAnswerError("the lease changed while it was renewed.") from error
            if error.code == 409:
                return False
            raise
        self._held_until_s = asked_s + self._timing.deadline_s
        return True

    def _is_free(self, found: LeaseObject) -> bool:
        if not found.spec.holder_identity:
            return True
        version = found.metadata.resource_version
        if self._seen[0] != version:
            self._seen = (version, time.monotonic())
        told_s = min(found.spec.lease_duration_seconds, DURATION_S_MAX)
        return time.monotonic() - self._seen[1] >= max(told_s, self._timing.duration_s)

    async def _read(self) -> LeaseObject | None:
        try:
            body = await self._api.get(f"{self._path}/{self._name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        try:
            return _decode_lease(body)
        except msgspec.DecodeError as error:
            raise NoAnswerError(f"expected a lease, found {body[:100]!r}: {error}") from error

    async def _create(self) -> None:
        """Also in place of one that was deleted while we held it: the epoch goes on."""
        await self._api.create(self._path, self._body("", self._identity, self.epoch))

    async def _write(self, found: LeaseObject, holder: str, transitions: int) -> None:
        body = self._body(found.metadata.resource_version, holder, transitions)
        await self._api.replace(f"{self._path}/{self._name}", body)

    def _body(self, version: str, holder: str, transitions: int) -> bytes:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, object] = {"name": self._name, "namespace": self._namespace}
        if holder:
            metadata["annotations"] = self._annotations
        if version:
            metadata["resourceVersion"] = version
        return msgspec.json.encode(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": {
                    "holderIdentity": holder,
                    "leaseDurationSeconds": math.ceil(self._timing.duration_s),
                    "acquireTime": now,
                    "renewTime": now,
                    "leaseTransitions": transitions,
                },
            }
        )
