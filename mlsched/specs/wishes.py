"""What a user asks of an MLJob that exists, by annotations: to end it or some elements. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

CANCEL_ANNOTATION = "mlsched.io/cancel"
"""Its value is the grace in seconds, or empty for that of the spec."""

CANCEL_ELEMENTS_ANNOTATION = "mlsched.io/cancel-elements"
"""Elements of an array, such as ``3,5-7``; ``3:30`` gives element 3 a grace of 30 seconds."""

_PART = re.compile(r"\s*(\d{1,9})(?:-(\d{1,9}))?(?::(\d{1,5}))?\s*")


class Part(Struct, frozen=True):
    """Elements from one index to another, both among them."""

    first: int
    last: int
    grace_s: int | None = None
    """None for that of the spec."""


class Cancellation(Struct, frozen=True):
    """Which jobs of an object are to end."""

    whole: Part | None = None
    """Set when all are; only its grace counts."""
    parts: tuple[Part, ...] = ()

    def of(self, index: int | None) -> Part | None:
        """What is asked of an element, or of the one job of an object; None for nothing."""
        if self.whole is not None or index is None:
            return self.whole
        return next((one for one in self.parts if one.first <= index <= one.last), None)

    def and_also(self, index: int, grace_s: int | None) -> Cancellation:
        """The same and one element more; what was asked of it before counts no more."""
        return Cancellation(self.whole, (Part(index, index, grace_s), *self.parts))


def read_cancellation(annotations: Mapping[str, str]) -> Cancellation | None:
    """What the annotations of an object ask for; what they say amiss is passed over."""
    grace, elements = (annotations.get(k) for k in (CANCEL_ANNOTATION, CANCEL_ELEMENTS_ANNOTATION))
    if grace is None and elements is None:
        return None
    whole = None if grace is None else Part(0, 0, _seconds(grace))
    found = map(_PART.fullmatch, (elements or "").split(","))
    parts = [
        Part(int(one[1]), int(one[2] or one[1]), _seconds(one[3] or "")) for one in found if one
    ]
    return Cancellation(whole, tuple(parts))


def write_parts(cancellation: Cancellation) -> str:
    """The elements, as the annotation says them; each once, as it was asked last."""
    told: dict[tuple[int, int], str] = {}
    for one in cancellation.parts:
        span = str(one.first) if one.first == one.last else f"{one.first}-{one.last}"
        grace = "" if one.grace_s is None else f":{one.grace_s}"
        told.setdefault((one.first, one.last), f"{span}{grace}")
    return ",".join(told.values())


def _seconds(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 6 else None
