"""Changes to a document by path: ``--set gpusPerNode=4``, ``--set env.LR=0.1``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsched.errors import SpecError

ALIASES = {
    "gpus": "gpusPerNode",
    "cpus": "cpusPerTask",
    "memory": "memoryPerNode",
    "time": "timeLimit",
    "name": "",
}
"""Words of the command line for what a document calls otherwise."""

RIVALS = {
    "timeLimit": ("timeLimitSeconds",),
    "gpusPerNode": ("gpus", "gpusPerTask"),
    "cpusPerTask": ("cpusPerGpu",),
    "memoryPerNode": ("memoryPerCpu", "memoryPerGpu"),
}
"""Fields that say the same thing otherwise, and give way when one is set."""


def edit_document(document: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with each path in its spec set to a value; the original stays as it is.

    The result is not checked here: `load_document` does that.

    Raises:
        SpecError: a path that goes through something that is no object.
    """
    spec = dict(document.get("spec", {}))
    for path, value in changes.items():
        first, *rest = path.removeprefix("spec.").split(".")
        first = ALIASES.get(first, first)
        if not first or not all(rest):
            raise SpecError(f"--set: {path[:60]!r} is not a field of the spec.")
        for rival in RIVALS.get(first, ()):
            spec.pop(rival, None)
        spec[first] = _set_in(spec.get(first), rest, value, path)
    return {**document, "spec": spec}


def _set_in(found: Any, rest: list[str], value: Any, path: str) -> Any:
    if not rest:
        return value
    if found is not None and not isinstance(found, dict):
        raise SpecError(f"--set: {path[:60]!r} goes through a value that has no fields.")
    inner = dict(found or {})
    inner[rest[0]] = _set_in(inner.get(rest[0]), rest[1:], value, path)
    return inner
