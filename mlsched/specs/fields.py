"""The table of the fields of an MLJob's spec: name, reader, writer, schema and one line each.

Everything that knows the fields is made from it: reading and writing documents, the JSON Schema,
suggestions for a misspelt key, and the table in the guide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, to_builtins

from mlsched.model.specs import JobSpec
from mlsched.specs import values
from mlsched.specs.limits import ARRAY_SIZE_MAX, INTEGER_BOUNDS, SIGNAL_NAMES, document_name
from mlsched.specs.problems import fault

Reader = Callable[[object, str], Any]
Writer = Callable[[Any], Any]
Schema = dict[str, Any]


class Field(Struct, frozen=True):
    """One field of a document's spec."""

    attribute: str
    """The field of JobSpec; empty for names that only documents have."""
    read: Reader
    doc: str
    schema: Schema
    write: Writer = lambda value: value
    alias: str = ""
    """The name in documents where it is not the camel-case form of ``attribute``."""

    @property
    def name(self) -> str:
        """What a document calls the field."""
        return self.alias or document_name(self.attribute)


_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TEXT_MAP: Schema = {"type": "object", "additionalProperties": _TEXT}
_SIZE: Schema = {
    "oneOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[kKmMgGtTpP]?i?[bB]?\s*$"},
    ]
}
_CPUS: Schema = {
    "oneOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*\d{1,9}(\.\d{1,6})?m?\s*$"},
    ]
}
_INDEX: Schema = {"type": "integer", "minimum": 0}
_ARRAY: Schema = {
    "oneOf": [
        {"type": "string", "pattern": r"^[\s0-9,:-]+(%[1-9]\d*)?\s*$"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "first": _INDEX,
                "last": _INDEX,
                "step": {"type": "integer", "minimum": 1},
                "count": {"type": "integer", "minimum": 1, "maximum": ARRAY_SIZE_MAX},
                "indices": {"type": "array", "items": _INDEX, "minItems": 1},
                "maxParallel": _INDEX,
            },
        },
    ]
}
_SIGNAL: Schema = {
    "oneOf": [
        {"type": "string", "pattern": r"^\s*(B:)?(SIG)?[A-Za-z0-9+]+(@\d+)?\s*$"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "examples": list(SIGNAL_NAMES)},
                "beforeEndSeconds": {"type": "integer", "minimum": 0},
                "to": {"enum": ["steps", "shell"]},
            },
        },
    ]
}
_TOLERATIONS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "key": _TEXT,
            "operator": {"enum": ["Exists", "Equal"]},
            "value": _TEXT,
            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        },
    },
}
_AFTER: Schema = {
    "type": "array",
    "items": {
        "oneOf": [
            _TEXT,
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["job"],
                "properties": {"job": _TEXT, "condition": {"enum": ["ok", "any", "fail"]}},
            },
        ]
    },
}


def _integer(attribute: str, doc: str) -> Field:
    least, greatest = INTEGER_BOUNDS[attribute]
    schema = {"type": "integer", "minimum": least, "maximum": greatest}
    return Field(attribute, values.read_integer, doc, schema)


def _text(attribute: str, doc: str) -> Field:
    return Field(attribute, values.read_text, doc, _TEXT)


def _flag(attribute: str, doc: str) -> Field:
    return Field(attribute, values.read_flag, doc, {"type": "boolean"})


def _size(attribute: str, doc: str) -> Field:
    return Field(attribute, values.read_bytes, doc, _SIZE)


def _cpus(attribute: str, doc: str) -> Field:
    return Field(attribute, values.read_cpus, doc, _CPUS, values.write_cpus)


def _read_launch(found: object, where: str) -> str:
    if found not in ("each", "once"):
        raise fault(where, "each or once", found)
    return str(found)


def _write_signal(signal: Any) -> dict[str, Any]:
    return {"name": signal.name, "beforeEndSeconds": signal.before_end_seconds, "to": signal.to}


def _write_tolerations(tolerations: Any) -> list[dict[str, str]]:
    return [{key: text for key, text in to_builtins(one).items() if text} for one in tolerations]


def _write_after(after: Any) -> list[dict[str, str]]:
    return [{"job": one.job, "condition": one.condition} for one in after]


FIELDS: tuple[Field, ...] = (
    Field(
        "command",
        values.read_command,
        "What is run: a list of words, or text that is split into words; no shell takes part.",
        {"oneOf": [_TEXT, _TEXTS]},
        list,
    ),
    _text("script", "Text of a script that is run by its own `#!` line, in place of `command`."),
    Field("", values.read_texts, "Arguments behind `script` or `command`.", _TEXTS, alias="args"),
    Field(
        "env",
        values.read_text_map,
        "Environment variables; each value is text, so quote numbers.",
        _TEXT_MAP,
        dict,
    ),
    Field(
        "env_secrets",
        values.read_texts,
        "Secrets on Kubernetes whose entries become variables; on one machine they are not used.",
        _TEXTS,
        list,
    ),
    _text("workdir", "Directory to run in; a relative one starts where the job is submitted."),
    _text("output", "File that gets a copy of the output; `%j` id, `%x` name, `%a` array index."),
    _integer("nodes", "Node groups of the gang; all start or none."),
    _integer("tasks_per_node", "Processes in each node group."),
    _integer("tasks", "Processes in all; 0 means nodes x tasksPerNode."),
    Field(
        "launch",
        _read_launch,
        "`each` starts the command once a task, `once` once for the job, as sbatch does.",
        {"enum": ["each", "once"]},
    ),
    _flag("gang_token", "Give the processes of an attempt one secret: `MLSCHED_GANG_TOKEN`."),
    _cpus("milli_cpus_per_task", "CPUs for each task: `2`, `0.5` or `500m`."),
    _cpus("milli_cpus_per_gpu", "CPUs for each GPU, in place of `cpusPerTask`."),
    Field(
        "memory_per_node",
        values.read_memory,
        "Memory of each node group: `64Gi`, bytes, or `all` of the node.",
        {"oneOf": [{"const": "all"}, *_SIZE["oneOf"]]},
    ),
    _size("memory_per_cpu", "Memory for each CPU, in place of `memoryPerNode`."),
    _size("memory_per_gpu", "Memory for each GPU, in place of `memoryPerNode`."),
    _integer("gpus_per_node", "GPUs of each node group."),
    _integer("gpus", "GPUs of the whole job, divided over its nodes."),
    _integer("gpus_per_task", "GPUs for each task."),
    _text("gpu_model", "Model such as `H100`; with `mig: true` a MIG profile such as `1g.10gb`."),
    _flag("mig", "Whether `gpuModel` names a MIG profile."),
    Field(
        "gpu_memory_min_bytes",
        values.read_gpu_memory,
        "Least memory of each GPU: `80GB` as its maker counts, `75Gi`, or bytes.",
        _SIZE,
    ),
    _text("constraint", "GPU models that would do, joined by `|`: `v100|a100`."),
    _text("image", "Container image on Kubernetes; on one machine it is not used."),
    _text("layer", "Layer to run on; left out, `gpu` for jobs with GPUs and `data` for others."),
    Field(
        "node_selector",
        values.read_text_map,
        "Labels that a node must have, each with this value.",
        _TEXT_MAP,
        dict,
    ),
    Field(
        "tolerations",
        values.read_tolerations,
        "Taints of nodes that do not keep the job away: `{key, operator, value, effect}`.",
        _TOLERATIONS,
        _write_tolerations,
    ),
    _text("queue", "Queue to wait in."),
    Field(
        "queues",
        values.read_texts,
        "All queues that would do, the best first; `queue` is the first of them.",
        _TEXTS,
        list,
    ),
    Field(
        "priority",
        values.read_priority,
        "Higher starts first: a number, or `low` (-100), `normal` (0), `high` (100).",
        {"oneOf": [{"type": "integer"}, {"enum": ["low", "normal", "high"]}]},
    ),
    _integer("time_limit_seconds", "The job is ended after so many seconds; 0 means no limit."),
    Field(
        "",
        values.read_span,
        "The same with a unit: `2h`, `1h30m`, `1-00:00:00`.",
        {"type": "string"},
        alias="timeLimit",
    ),
    _integer("grace_seconds", "Seconds between SIGTERM and SIGKILL."),
    Field(
        "signal",
        values.read_signal,
        "Early notice before the time limit: an object, or text such as `B:USR1@120`.",
        _SIGNAL,
        _write_signal,
    ),
    Field(
        "array",
        values.read_array,
        "Many jobs of one spec: `0-9%4`, or `{first, last, step, maxParallel}`, or `{indices}`.",
        _ARRAY,
        values.write_array,
    ),
    Field(
        "after",
        values.read_dependencies,
        "Jobs to wait for: a list of `JOB`, `JOB:ok`, `JOB:any`, `JOB:fail`.",
        _AFTER,
        _write_after,
    ),
    _integer("retries", "How often a failed job is run again."),
    _flag("requeue", "Run again when the machine was lost."),
    Field(
        "labels",
        values.read_text_map,
        "Labels of the job, beside those of `metadata.labels`.",
        _TEXT_MAP,
        dict,
    ),
)

BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
BY_ATTRIBUTE: dict[str, Field] = {field.attribute: field for field in FIELDS if field.attribute}

DEFAULTS = JobSpec()
"""The values that a document leaves out."""


def describe_default(field: Field) -> str:
    """The default of a field as the guide shows it; empty where there is none."""
    default = getattr(DEFAULTS, field.attribute) if field.attribute else None
    if default in (None, "", (), {}, 0) or default is False:
        return ""
    return str(field.write(default))


def field_table() -> str:
    """The fields as a Markdown table, as ``docs/guides/job-spec.md`` holds it."""
    lines = ["| field | default | what it says |", "|---|---|---|"]
    for field in FIELDS:
        default = describe_default(field)
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{field.name}` | {shown} | {field.doc.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
