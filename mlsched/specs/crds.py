"""CustomResourceDefinitions of MLJob, MLQueue and GPUNode, made from the model. Pure.

What ``mlsched submit FILE`` takes on one machine is what ``kubectl apply`` takes. Rules over
several fields stand here where an API server can check them; `limits.validate_spec` has them all.
"""

from __future__ import annotations

from mlsched.model.inventory import Inventory
from mlsched.model.specs import API_VERSION
from mlsched.specs.fields import FIELDS, Field
from mlsched.specs.limits import (
    AFTER_MAX,
    ARGUMENT_BYTES_MAX,
    ENV_SECRETS_MAX,
    EXEC_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    SCRIPT_BYTES_MAX,
    TOLERATIONS_MAX,
)
from mlsched.specs.statuses import JobStatus
from mlsched.specs.structural import Schema, of_json_schema, of_struct

QUEUES_MAX = 64
WORDS_MAX = 65_536
ENTRIES_MAX = 16_384
"""Of a map. Source: a variable takes 32 bytes or more of the 512 KiB that `limits` leaves."""

GROUP, _, VERSION = API_VERSION.partition("/")
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
_MEMORY = ("memoryPerNode", "memoryPerCpu", "memoryPerGpu")
_SPEC_RULES = [
    _FIXED_RULE,
    {
        "rule": "!has(self.script) || self.script == '' || self.script.startsWith('#!')",
        "message": "the script has no shebang: its first line must begin with '#!'",
        "fieldPath": ".script",
    },
    {
        "rule": "!(has(self.timeLimit) && has(self.timeLimitSeconds))",
        "message": "timeLimit and timeLimitSeconds say the same: keep one",
    },
    {
        "rule": " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in _MEMORY) + " <= 1",
        "message": f"{', '.join(_MEMORY)} exclude each other: keep one of them",
    },
    {
        "rule": "!has(self.mig) || !self.mig || (has(self.gpuModel) && self.gpuModel != '')",
        "message": "mig needs the profile in gpuModel, such as 1g.10gb",
        "fieldPath": ".mig",
    },
    {
        "rule": "!has(self.gpus) || !has(self.gpusPerNode) || self.gpus == 0 ||"
        " self.gpusPerNode == 0 ||"
        " self.gpus == self.gpusPerNode * (has(self.nodes) ? self.nodes : 1)",
        "message": "gpus is not gpusPerNode x nodes: leave one out",
        "fieldPath": ".gpus",
    },
]
_PROGRAMS: list[Schema] = [
    {"required": ["command"]},
    {"required": ["script"], "properties": {"script": {"minLength": 1}}},
]
"""One of the two; CEL does not see ``command``, which has no single type."""

_BOUNDS: dict[str, Schema] = {
    "command": {"maxLength": EXEC_BYTES_MAX, "maxItems": WORDS_MAX},
    "script": {"maxLength": SCRIPT_BYTES_MAX},
    "args": {"maxItems": WORDS_MAX},
    "env": {"maxProperties": ENTRIES_MAX},
    "envSecrets": {"maxItems": ENV_SECRETS_MAX},
    "workdir": {"maxLength": 4_095},
    "output": {"maxLength": 4_095},
    "image": {"maxLength": 512},
    "layer": {"maxLength": 63},
    "nodeSelector": {"maxProperties": ENTRIES_MAX},
    "tolerations": {"maxItems": TOLERATIONS_MAX},
    "gpuModel": {"maxLength": 128},
    "constraint": {"maxLength": 128},
    "queue": {"minLength": 1, "maxLength": 63},
    "queues": {"maxItems": QUEUES_MAX},
    "timeLimit": {"maxLength": 64},
    "after": {"maxItems": AFTER_MAX},
    "labels": {"maxProperties": ENTRIES_MAX},
}
"""So that an API server can tell what a rule costs at most; never below what `limits` takes."""

_ITEM_BOUNDS: dict[str, Schema] = {
    "command": {"maxLength": ARGUMENT_BYTES_MAX},
    "args": {"maxLength": ARGUMENT_BYTES_MAX},
    "env": {"maxLength": ARGUMENT_BYTES_MAX},
    "envSecrets": {"minLength": 1, "maxLength": 253},
    "queues": {"minLength": 1, "maxLength": 63},
    "nodeSelector": {"maxLength": 63},
    "labels": {"maxLength": 63},
}


def build_job_crd() -> Schema:
    """MLJob: one job, one gang, or one array."""
    spec: Schema = {
        "type": "object",
        "description": "What is run and what it needs.",
        "properties": {field.name: _field_schema(field) for field in FIELDS},
        "oneOf": _PROGRAMS,
        "x-kubernetes-validations": _SPEC_RULES,
    }
    columns = [
        ("State", "string", ".status.state", 0),
        ("Reason", "string", ".status.reason", 0),
        ("GPUs", "integer", ".status.gpus", 0),
        ("Nodes", "string", ".status.nodes", 0),
        ("Queue", "string", ".spec.queue", 1),
        ("Exit", "integer", ".status.exitCode", 1),
        ("User", "string", r".metadata.annotations.mlsched\.io/user", 1),
        ("Attempt", "integer", ".status.attempt", 1),
        ("Message", "string", ".status.message", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ]
    schema = _whole("A job of mlsched.", spec, of_struct(JobStatus), ["spec"])
    schema["x-kubernetes-validations"] = [_NAME_RULE]
    crd = _crd("MLJob", "mljobs", ["mlj"], schema, columns)
    paths = (".status.state", ".spec.queue")
    crd["spec"]["versions"][0]["selectableFields"] = [{"jsonPath": path} for path in paths]
    return crd


def _field_schema(field: Field) -> Schema:
    schema = of_json_schema(field.schema) | _BOUNDS.get(field.name, {})
    bounds = _ITEM_BOUNDS.get(field.name, {})
    for inner in schema.keys() & {"items", "additionalProperties"}:
        schema[inner] = schema[inner] | bounds
    return {"description": field.doc.replace("`", ""), **schema}


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
            "inventory": of_struct(Inventory),
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
