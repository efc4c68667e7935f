"""Names of MLJobs that were given none, and what a text stands for. Pure."""

from __future__ import annotations

import hashlib
import random
import re

from msgspec import Struct

from mlsched.errors import SpecError
from mlsched.model.specs import Dependency

SUFFIX_CHARACTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Without vowels and without what is easily mistaken. Source: Kubernetes' names of pods."""

SUFFIX_LENGTH = 5
BASE_CHARACTERS_MAX = 50
"""So that names of pods, which add a suffix, an attempt and a group, stay within a DNS label."""

_REFERENCE = re.compile(
    r"(?:(?P<namespace>[a-z0-9][-a-z0-9]{0,62})/)?(?P<name>[a-z0-9][-a-z0-9]{0,62})"
    r"(?:\[(?P<index>\d{1,9})\]|\.(?P<dotted>\d{1,9}))?"
)


class Reference(Struct, frozen=True):
    """Which MLJob, and which of its elements."""

    namespace: str
    name: str
    index: int | None = None
    """Of an element; None for the whole array, or for a single job."""

    @property
    def id(self) -> str:
        """As `mlsched.specs.records` has it."""
        whole = f"{self.namespace}/{self.name}"
        return whole if self.index is None else f"{whole}.{self.index}"


def parse_reference(text: str, namespace: str) -> Reference | None:
    """``NAME``, ``NAME[3]``, ``NAMESPACE/NAME`` or ``NAMESPACE/NAME.3``; None for other texts."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    index = found["index"] or found["dotted"]
    return Reference(
        found["namespace"] or namespace, found["name"], None if index is None else int(index)
    )


def invent_name(base: str, chance: random.Random) -> str:
    """The base and five characters by chance: 14 million names."""
    suffix = "".join(chance.choice(SUFFIX_CHARACTERS) for _ in range(SUFFIX_LENGTH))
    return f"{_short(base)}-{suffix}"


def name_for_key(base: str, key: str) -> str:
    """The base and ten characters that follow from a key: the same wherever it is asked."""
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    suffix = ""
    for _ in range(2 * SUFFIX_LENGTH):
        number, place = divmod(number, len(SUFFIX_CHARACTERS))
        suffix += SUFFIX_CHARACTERS[place]
    return f"{_short(base)}-{suffix}"


def base_of(name: str, base: str) -> str:
    """The base that a name was made of, given what it would be made of; else the name."""
    stem = _short(base)
    made = re.fullmatch(rf"{re.escape(stem)}-[{SUFFIX_CHARACTERS}]{{{SUFFIX_LENGTH}}}", name)
    return stem if made else name


def _short(base: str) -> str:
    return base[:BASE_CHARACTERS_MAX].rstrip("-")


def local_dependency(dependency: Dependency, namespace: str) -> Dependency:
    """A dependency as an MLJob has it: ``NAME``, or ``NAME[INDEX]``, of its own namespace.

    Raises:
        SpecError: it names no job, or one of another namespace.
    """
    found = parse_reference(dependency.job, namespace)
    if found is None:
        raise SpecError(f"after: {dependency.job[:80]!r} is not the name of a job.")
    if found.namespace != namespace:
        raise SpecError(
            f"after: {dependency.job} is in another namespace than the job, which is in "
            f"{namespace}.",
            "Jobs wait for jobs of their own namespace.",
        )
    name = found.name if found.index is None else f"{found.name}[{found.index}]"
    return Dependency(name, dependency.condition)
