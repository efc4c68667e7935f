from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal

import msgspec
import pytest

from mlsched.specs.crds import build_crds
from mlsched.specs.fields import FIELDS
from mlsched.specs.statuses import JobStatus
from mlsched.specs.structural import KINDS, field_docs, of_json_schema, of_struct


class Word(StrEnum):
    ONE = "one"


class Base(msgspec.Struct, rename="camel"):
    first_name: str
    """Classes outside of the model are not read for their docs."""


class Whole(Base, rename="camel"):
    word: Word
    either: Literal["a", "b"] | None = None
    facts: dict[str, str | int | list[str]] = {}
    parts: tuple[Base, ...] = ()


def test_a_struct_becomes_a_schema_with_its_own_names() -> None:
    name = {"type": "string"}
    assert of_struct(Whole) == {
        "type": "object",
        "properties": {
            "firstName": name,
            "word": {"type": "string", "enum": ["one"]},
            "either": {"type": "string", "enum": ["a", "b"], "nullable": True},
            "facts": {
                "type": "object",
                "additionalProperties": {
                    "x-kubernetes-preserve-unknown-fields": True,
                    "items": {"type": "string"},
                    "anyOf": [KINDS["string"], KINDS["integer"], KINDS["array"]],
                },
            },
            "parts": {
                "type": "array",
                "items": {"type": "object", "properties": {"firstName": name}},
            },
        },
    }


def test_a_type_without_a_schema_is_named() -> None:
    class Odd(msgspec.Struct):
        raw: bytes

    with pytest.raises(TypeError, match="BytesType"):
        of_struct(Odd)


def test_a_number_or_a_text_is_int_or_string() -> None:
    schema = {"oneOf": [{"type": "integer", "minimum": 1}, {"enum": ["low", "a.b"]}]}
    assert of_json_schema(schema) == {
        "x-kubernetes-int-or-string": True,
        "minimum": 1,
        "pattern": r"^(low|a\.b)$",
    }


def test_other_kinds_are_told_apart_without_a_type() -> None:
    schema = {
        "oneOf": [
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}},
        ]
    }
    assert of_json_schema(schema) == {
        "x-kubernetes-preserve-unknown-fields": True,
        "minimum": 0,
        "exclusiveMinimum": True,
        "required": ["x"],
        "properties": {"x": {"type": "integer", "format": "int64"}},
        "anyOf": [KINDS["number"], KINDS["object"]],
    }


def test_docs_are_those_below_the_fields() -> None:
    docs = field_docs(JobStatus)
    assert docs["gpus"] == "GPUs that are asked for, of all groups: a column for people."
    assert "nodes" not in docs


def test_the_job_crd_has_every_field_with_its_doc() -> None:
    version = build_crds()[0]["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    spec = properties["spec"]["properties"]
    assert list(spec) == [field.name for field in FIELDS]
    assert all(one["description"] for one in spec.values())
    status = properties["status"]["properties"]
    assert status["epoch"]["description"].startswith("How often the lease")


def test_the_definitions_hold_whole_numbers_only() -> None:
    """helm and kubectl write -1e300 as -1e+300, which readers of YAML 1.1 take for text."""
    assert not [one for one in leaves(build_crds()) if isinstance(one, float)]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value
