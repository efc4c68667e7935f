"""MLJob documents: from text or plain values to a JobSpec, and back.

    apiVersion: mlsched.io/v1alpha1
    kind: MLJob
    metadata: {name: train}
    spec: {command: python train.py, gpusPerNode: 2}

The law: ``load_document(to_document(x.spec, x.metadata)) == x`` for every document x that
`load_document` gave. Labels live in ``spec.labels`` of the value and in ``metadata.labels`` of
the document, where Kubernetes has them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mlsched.errors import SpecError
from mlsched.model.specs import API_VERSION, KIND, JobSpec, Metadata
from mlsched.specs import values
from mlsched.specs.fields import BY_NAME, DEFAULTS, FIELDS
from mlsched.specs.limits import validate_metadata, validate_spec
from mlsched.specs.problems import fault, unknown
from mlsched.specs.trees import check_tree, parse_tree, to_yaml

__all__ = [
    "JOB_NAME_ANNOTATION",
    "JobDocument",
    "load_document",
    "load_spec",
    "parse_document",
    "to_document",
    "to_yaml",
    "validate_spec",
]

JOB_NAME_ANNOTATION = "mlsched.io/job-name"
"""The name as its author wrote it, where that is no legal ``metadata.name``."""

_METADATA_KEYS = ("name", "namespace", "labels", "annotations")


class JobDocument(Struct, frozen=True):
    """An MLJob as it was read and checked."""

    spec: JobSpec
    metadata: Metadata = Metadata()


def parse_document(text: str, *, source: str = "-") -> JobDocument:
    """The job that a YAML or JSON text describes.

    Args:
        text: The document.
        source: Its name in errors.

    Raises:
        SpecError: says where, what was found, what is allowed and what to do.
    """
    tree = parse_tree(text, source=source)
    if not isinstance(tree, dict):
        raise fault(source, "an MLJob document", tree, f"It begins with apiVersion: {API_VERSION}.")
    return load_document(tree)


def load_document(data: dict[str, Any]) -> JobDocument:
    """The job that plain values describe, as they come out of YAML or over the socket.

    Raises:
        SpecError: says where, what was found, what is allowed and what to do.
    """
    check_tree(data, source="document")
    for key in data:
        if key not in ("apiVersion", "kind", "metadata", "spec"):
            raise unknown("document", key, ("apiVersion", "kind", "metadata", "spec"))
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if data.get(key) != expected:
            raise fault(key, repr(expected), data.get(key), f"Write {key}: {expected}.")
    head = data.get("metadata")
    metadata = load_metadata(values.read_object({} if head is None else head, "metadata"))
    spec = load_spec(values.read_object(data.get("spec"), "spec"))
    labels = {**metadata.labels, **spec.labels}
    spec = replace(spec, labels=labels)
    validate_spec(spec)
    return JobDocument(spec, replace(metadata, labels={}))


def load_metadata(data: dict[str, object]) -> Metadata:
    """The metadata that plain values describe, checked.

    Raises:
        SpecError: an unknown key, or what Kubernetes would refuse.
    """
    for key in data:
        if key not in _METADATA_KEYS:
            raise unknown("metadata", key, _METADATA_KEYS)
    metadata = Metadata(
        name=values.read_text(data.get("name", ""), "metadata.name"),
        namespace=values.read_text(data.get("namespace", ""), "metadata.namespace"),
        labels=values.read_text_map(data.get("labels", {}), "metadata.labels"),
        annotations=values.read_text_map(data.get("annotations", {}), "metadata.annotations"),
    )
    validate_metadata(metadata)
    return metadata


def load_spec(data: dict[str, Any]) -> JobSpec:
    """The spec that plain values describe; `validate_spec` is still to be called on it.

    Raises:
        SpecError: an unknown field or a value of another kind.
    """
    found: dict[str, Any] = {}
    for name, value in data.items():
        field = BY_NAME.get(name)
        if field is None:
            raise unknown("spec", name, BY_NAME)
        found[field.attribute or name] = field.read(value, f"spec.{name}")
    _merge_arguments(found)
    _merge_time_limit(found)
    _merge_queues(found)
    return JobSpec(**found)


def _merge_arguments(found: dict[str, Any]) -> None:
    if found.get("script") and "command" in found:
        raise SpecError("spec: command and script exclude each other.", "Keep one of them.")
    if "args" in found:
        found["command"] = found.get("command", ()) + found.pop("args")


def _merge_time_limit(found: dict[str, Any]) -> None:
    if "timeLimit" in found:
        if "time_limit_seconds" in found:
            raise SpecError("spec: timeLimit and timeLimitSeconds say the same.", "Keep one.")
        found["time_limit_seconds"] = found.pop("timeLimit")


def _merge_queues(found: dict[str, Any]) -> None:
    queues = found.get("queues", ())
    if not queues:
        return
    first = found.setdefault("queue", queues[0])
    others = queues[1:] if queues[0] == first else queues
    found["queues"] = others


def to_document(
    spec: JobSpec, metadata: Metadata | None = None, *, named: Collection[str] = ()
) -> dict[str, Any]:
    """The canonical document of a job, ready for JSON or `to_yaml`.

    Fields at their default are left out, but for those of ``named`` (names of JobSpec): what an
    author wrote out stays written out.
    """
    metadata = metadata or Metadata()
    written: dict[str, Any] = {}
    for field in FIELDS:
        value = getattr(spec, field.attribute, None) if field.attribute else None
        if value is None or field.attribute == "labels":
            continue
        if value != getattr(DEFAULTS, field.attribute) or field.attribute in named:
            written[field.name] = field.write(value)
    if spec.script and "command" in written:
        written["args"] = written.pop("command")
    if spec.queues:
        written["queues"] = [spec.queue, *spec.queues]
    head: dict[str, Any] = {"name": metadata.name, "namespace": metadata.namespace}
    head["labels"] = {**metadata.labels, **spec.labels}
    head["annotations"] = dict(metadata.annotations)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {key: value for key, value in head.items() if value},
        "spec": written,
    }
