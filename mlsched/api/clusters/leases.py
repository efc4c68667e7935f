"""Whether a controller works in a cluster, and what it tells of its settings.

Its namespace is not known here, so leases of its name are looked for in all of them. Whoever may
write leases in some namespace can make one up, which misleads readers and nobody else: the oldest
that is held counts, and `doctor` tells of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import msgspec
from msgspec import Struct, field

from mlsched.adapters.kubernetes.announcements import (
    LEASE_NAME,
    LEASES,
    Announcement,
    read_announcement,
)
from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.objects import Metadata, decode_raw_list
from mlsched.api.clusters.problems import TROUBLES
from mlsched.units import format_span

NO_CONTROLLER = (
    "no mlsched controller holds its lease: nothing is placed or cancelled until one runs"
)
RECENT_S = 5.0
_UNKNOWN = "its rules for layers, DRA drivers and image count as not said"


class ControllerView(Struct, frozen=True):
    """What a user can know of the controller of a cluster."""

    holder: str | None = None
    """Who holds its lease; empty for nobody, None where leases may not be read."""
    settings: Announcement | None = None
    namespaces: tuple[str, ...] = ()
    """Where a lease is held: more than one is a fault of whoever runs the cluster."""
    silent_s: float | None = None
    """Since the last holder was heard, where nobody holds the lease now."""

    @property
    def trouble(self) -> str:
        """Why nothing is placed; empty where something is, or that is not known."""
        if self.holder != "":
            return ""
        if self.silent_s is None:
            return NO_CONTROLLER
        return f"{NO_CONTROLLER} (the last was heard {format_span(self.silent_s)} ago)"

    @property
    def note(self) -> str:
        """What is not known of its settings; empty where they are."""
        if self.holder is None:
            return f"you may not read the controller's lease: {_UNKNOWN}"
        if self.holder and self.settings is None:
            return f"the controller, of another release, does not tell its settings: {_UNKNOWN}"
        return ""


class RecentView:
    """What is known of the controller when a job is submitted: perhaps not of this very moment.

    Args:
        read: Reads it anew, at most once in five seconds however many jobs are submitted.
    """

    def __init__(self, read: Callable[[], ControllerView]) -> None:
        self._read = read
        self._found = ControllerView()
        self._until_s = 0.0

    def image(self) -> str:
        """What the controller gives to jobs that name none; empty where it has none.

        Raises:
            ApiError, NoAnswerError: the API server is in trouble.
        """
        settings = self._look().settings
        return settings.image if settings else ""

    def warnings(self) -> list[str]:
        """Why nothing is placed; never an error, since the job is there whatever comes of this."""
        try:
            trouble = self._look().trouble
        except TROUBLES:
            return []
        return [trouble] if trouble else []

    def _look(self) -> ControllerView:
        now_s = time.monotonic()
        if now_s >= self._until_s:
            self._found, self._until_s = self._read(), now_s + RECENT_S
        return self._found


class _Spec(Struct, rename="camel"):
    holder_identity: str | None = ""
    lease_duration_seconds: int | None = 15
    renew_time: str | None = None


class _Lease(Struct):
    metadata: Metadata
    spec: _Spec = field(default_factory=_Spec)

    def silent_s(self, now_s: float) -> float | None:
        """Since it was renewed; None where it never was, or at a time that is none."""
        try:
            renewed = datetime.fromisoformat(self.spec.renew_time or "")
        except ValueError:
            return None
        return max(0.0, now_s - renewed.timestamp())

    def is_held(self, now_s: float) -> bool:
        """Whether somebody renews it, with as much again for clocks that differ."""
        silent_s = self.silent_s(now_s)
        lasts_s = 2 * (self.spec.lease_duration_seconds or 15)
        return bool(self.spec.holder_identity) and silent_s is not None and silent_s <= lasts_s


_decode_lease = msgspec.json.Decoder(_Lease).decode


def read_controller(connections: Connections) -> ControllerView:
    """What its lease tells.

    Raises:
        ApiError, NoAnswerError: the API server is in trouble.
    """
    try:
        body = connections.get(LEASES, {"fieldSelector": f"metadata.name={LEASE_NAME}"})
    except ApiError as error:
        if error.code == 403:
            return ControllerView()
        raise
    items = decode_raw_list(body).items
    leases = [_decode_lease(item) for item in items]
    leases.sort(key=lambda one: (one.metadata.creation_timestamp, one.metadata.namespace))
    return _judge(leases, connections.now_s())


def _judge(leases: list[_Lease], now_s: float) -> ControllerView:
    held = [one for one in leases if one.is_held(now_s)]
    if not held:
        ages = [age for one in leases if (age := one.silent_s(now_s)) is not None]
        return ControllerView("", silent_s=min(ages, default=None))
    first = held[0]
    return ControllerView(
        first.spec.holder_identity,
        read_announcement(first.metadata.annotations),
        tuple(one.metadata.namespace for one in held),
    )
