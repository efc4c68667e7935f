"""What a controller tells of itself: settings in an annotation of its Lease. Pure.

Whoever may read that one object can work out what the controller will decide, and sees by the Lease
itself whether there is one. Another release may have written it: what is not understood is not
known.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from mlsched.adapters.kubernetes.nodes import LayerRule
from mlsched.adapters.kubernetes.slices import DRIVERS
from mlsched.version import __version__

LEASE_NAME = "mlsched-controller"
LEASES = "/apis/coordination.k8s.io/v1/leases"
SETTINGS_ANNOTATION = "mlsched.io/settings"


class Announcement(Struct, frozen=True, rename="camel"):
    """Settings of a controller that decide what becomes of jobs."""

    image: str = ""
    """For jobs that name none."""
    layer_rules: tuple[LayerRule, ...] = ()
    dra_drivers: tuple[str, ...] = DRIVERS
    device_classes: dict[str, str] = {}
    """Names of DeviceClasses by driver, where the two differ."""
    version: str = __version__
    """Of mlsched."""


_decode = msgspec.json.Decoder(Announcement).decode


def write_announcement(announcement: Announcement) -> dict[str, str]:
    """The annotations of the Lease."""
    return {SETTINGS_ANNOTATION: msgspec.json.encode(announcement).decode()}


def read_announcement(annotations: dict[str, str]) -> Announcement | None:
    """What the annotations of a Lease tell; None where that is nothing, or not understood."""
    try:
        return _decode(annotations.get(SETTINGS_ANNOTATION, ""))
    except msgspec.MsgspecError:
        return None
