"""The JSON Schema of MLJob documents, made from the table of fields.

``python -m mlsched.specs.schema`` prints it; ``docs/schema/mljob.v1alpha1.json`` is that output.
An editor that knows the schema completes and checks a document. What depends on several fields at
once is checked by `limits.validate_spec` alone.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mlsched.model.specs import API_VERSION, KIND
from mlsched.specs.fields import DEFAULTS, FIELDS, Field, describe_default
from mlsched.specs.limits import NAME_CHARACTERS_MAX

_NAME = {
    "type": "string",
    "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    "maxLength": NAME_CHARACTERS_MAX,
}
_TEXT_MAP = {"type": "object", "additionalProperties": {"type": "string"}}

_SHOWN_DEFAULTS = frozenset(
    field.attribute for field in FIELDS if field.attribute and describe_default(field)
) | {"priority", "retries", "requeue", "mig", "gang_token"}
"""Fields whose default says something; the others are simply not asked for."""


def build_schema() -> dict[str, Any]:
    """The schema as plain values (JSON Schema, draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://mlsched.io/schema/mljob.v1alpha1.json",
        "title": f"{KIND} of {API_VERSION}",
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": KIND},
            "metadata": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "name": _NAME,
                    "namespace": _NAME,
                    "labels": _TEXT_MAP,
                    "annotations": _TEXT_MAP,
                },
            },
            "spec": {
                "type": "object",
                "additionalProperties": False,
                "anyOf": [{"required": ["command"]}, {"required": ["script"]}],
                "properties": {field.name: _describe(field) for field in FIELDS},
            },
        },
    }


def _describe(field: Field) -> dict[str, Any]:
    described = {"description": field.doc.replace("`", ""), **field.schema}
    if field.attribute in _SHOWN_DEFAULTS:
        described["default"] = field.write(getattr(DEFAULTS, field.attribute))
    return described


def format_schema() -> str:
    """The schema as the text of the published file."""
    return json.dumps(build_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(format_schema())
