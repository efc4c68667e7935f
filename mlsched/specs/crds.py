"""CustomResourceDefinitions of MLJob, MLQueue and GPUNode, made from the model. Pure.

What ``mlsched submit FILE`` takes on one machine is what ``kubectl apply`` takes: a field that may
be written in several forms is left to the controller where a structural schema cannot say them.
Source: the rules for structural schemas in Kubernetes' documentation of CRDs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlsched.model.inventory import Inventory
from mlsched.model.specs import API_VERSION
from mlsched.specs.fields import FIELDS
from mlsched.specs.limits import NAME_CHARACTERS_MAX
from mlsched.specs.statuses import JobStatus

Schema = dict[str, Any]

GROUP, _, VERSION = API_VERSION.partition("/")
_COPIED = ("description", "minimum", "maximum", "pattern", "enum", "minItems", "maxLength")
_ANY: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_NAME_RULE = {
    "rule": "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')"
    f" && size(self.metadata.name) <= {NAME_CHARACTERS_MAX}",
    "message": "the name of a job has lower-case letters, digits and dashes, "
    f"{NAME_CHARACTERS_MAX} characters at most: its pods are named after it",
}
_FIXED_RULE = {
    "rule": "self == oldSelf",
    "message": "the spec of a job cannot be changed: submit another one ('mlsched retry --set')",
}


def to_structural(schema: Schema) -> Schema:
    """A structural schema that takes at least what a JSON Schema takes.

    Alternatives of whole numbers and text become int-or-string; all others are left open.
    """
    described = {key: schema[key] for key in _COPIED if key in schema}
    branches = schema.get("oneOf") or schema.get("anyOf")
    if branches:
        real = [one for one in branches if one.get("type") != "null"]
        nullable = {"nullable": True} if len(real) < len(branches) else {}
        if len(real) == 1:
            return {**to_structural(real[0]), **described, **nullable}
        return {**described, **_alternatives(real), **nullable}
    kind = schema.get("type") or ("string" if "enum" in schema or "const" in schema else "")
    if kind == "object":
        return described | _object(schema)
    if kind == "array":
        return {"type": "array", "items": to_structural(schema.get("items", {}))} | described
    return {**described, "type": kind} if kind else described | _ANY


def _alternatives(branches: list[Schema]) -> Schema:
    kinds = {
        one.get("type", "string" if "enum" in one or "const" in one else "") for one in branches
    }
    if kinds == {"string"}:
        return {"type": "string"}
    if kinds == {"integer", "string"}:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
        }
    return dict(_ANY)


def _object(schema: Schema) -> Schema:
    made: Schema = {"type": "object"}
    if "properties" in schema:
        made["properties"] = {
            name: to_structural(one) for name, one in schema["properties"].items()
        }
        if schema.get("required"):
            made["required"] = schema["required"]
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = to_structural(schema["additionalProperties"])
    else:
        made |= _ANY
    return made


def schema_of(kind: Any) -> Schema:
    """The structural schema of a msgspec type; what it refers to stands in it."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="{name}")
    return to_structural(_resolve(schema, definitions))


def _resolve(schema: Any, definitions: dict[str, Schema]) -> Any:
    """The schema with references replaced by what they stand for; defaults are left out."""
    if isinstance(schema, list):
        return [_resolve(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolve(definitions[schema["$ref"]], definitions)
    return {
        key: {name: _resolve(one, definitions) for name, one in value.items()}
        if key == "properties"
        else _resolve(value, definitions)
        for key, value in schema.items()
        if key not in ("default", "title", "required")
    }


def build_job_crd() -> Schema:
    """MLJob: one job, one gang, or one array."""
    spec: Schema = {
        "type": "object",
        "description": "What is run and what it needs.",
        "properties": {field.name: _describe(field.doc, field.schema) for field in FIELDS},
        "anyOf": [{"required": ["command"]}, {"required": ["script"]}],
        "x-kubernetes-validations": [_FIXED_RULE],
    }
    columns = [
        ("State", "string", ".status.state", 0),
        ("Reason", "string", ".status.reason", 0),
        ("GPUs", "integer", ".status.gpus", 0),
        ("Nodes", "string", ".status.nodes", 0),
        ("Queue", "string", ".spec.queue", 1),
        ("Exit", "integer", ".status.exitCode", 1),
        ("Attempt", "integer", ".status.attempt", 1),
        ("Message", "string", ".status.message", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ]
    schema = _whole("A job of mlsched.", spec, schema_of(JobStatus), ["spec"])
    schema["x-kubernetes-validations"] = [_NAME_RULE]
    crd = _crd("MLJob", "mljobs", ["mlj"], schema, columns)
    paths = (".status.state", ".spec.queue")
    crd["spec"]["versions"][0]["selectableFields"] = [{"jsonPath": path} for path in paths]
    return crd


def _describe(doc: str, schema: Schema) -> Schema:
    return {"description": doc.replace("`", ""), **to_structural(schema)}


def build_queue_crd() -> Schema:
    """MLQueue: whether the jobs of a queue may start. A queue without an object is open."""
    spec = {
        "type": "object",
        "properties": {
            "paused": {"type": "boolean", "description": "Its jobs wait until this is false."},
            "description": {"type": "string", "maxLength": 1000},
        },
    }
    columns = [
        ("Paused", "boolean", ".spec.paused", 0),
        ("Description", "string", ".spec.description", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ]
    schema = _whole("A queue of jobs, in one namespace.", spec, None, [])
    return _crd("MLQueue", "mlqueues", ["mlq"], schema, columns)


def build_node_crd() -> Schema:
    """GPUNode: what the node agent reads of the GPUs of the node of the same name."""
    text: Schema = {"type": "string"}
    status = {
        "type": "object",
        "properties": {
            "inventory": schema_of(Inventory),
            "publishedAt": text,
            "bootId": text,
            "summary": {
                "type": "object",
                "properties": {
                    "gpus": {"type": "integer"},
                    "healthy": {"type": "integer"},
                    "driver": text,
                    "note": text,
                },
            },
            "holders": {"type": "object", "additionalProperties": text},
        },
    }
    columns = [
        ("GPUs", "integer", ".status.summary.gpus", 0),
        ("Healthy", "integer", ".status.summary.healthy", 0),
        ("Driver", "string", ".status.summary.driver", 0),
        ("Published", "date", ".status.publishedAt", 0),
    ]
    schema = _whole("The GPUs of one node, as its agent reads them.", None, status, [])
    return _crd("GPUNode", "gpunodes", ["gpun"], schema, columns, scope="Cluster")


def build_crds() -> list[Schema]:
    """All of them."""
    return [build_job_crd(), build_queue_crd(), build_node_crd()]


def _whole(doc: str, spec: Schema | None, status: Schema | None, required: list[str]) -> Schema:
    properties: Schema = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    if spec is not None:
        properties["spec"] = spec
    if status is not None:
        properties["status"] = status
    whole: Schema = {"type": "object", "description": doc, "properties": properties}
    return whole | ({"required": required} if required else {})


def _crd(
    kind: str,
    plural: str,
    short: list[str],
    schema: Schema,
    columns: list[tuple[str, str, str, int]],
    scope: str = "Namespaced",
) -> Schema:
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": short,
        "categories": ["mlsched"],
    }
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path, "priority": priority}
            for name, type_, path, priority in columns
        ],
    }
    if "status" in schema["properties"]:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": scope, "versions": [version]},
    }
