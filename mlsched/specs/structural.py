"""Structural schemas, the kind that a CustomResourceDefinition takes, from what the model has.

Two sources: the JSON Schema of a field of a document, and a msgspec Struct. A structural schema
has one type a place; a value of several kinds is ``x-kubernetes-int-or-string`` where that will do,
else a place without a type whose kinds are told apart by value validations, since CEL sees nothing
there. Source: Kubernetes documentation, "Extend the Kubernetes API with
CustomResourceDefinitions", sections on structural schemas and on validation rules.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect as types

Schema = dict[str, Any]

COUNT_MAX = 1_000_000
"""More items, keys than any object of 1.5 MiB has."""

_LEAST = -(2**62)
"""Below every number that a spec takes; whole, since YAML 1.1 reads -1e+300 as text."""

_NEVER = r"^\b$"
"""Matches no text: there is no word boundary in an empty one."""

KINDS: dict[str, Schema] = {
    "string": {"not": {"pattern": _NEVER}},
    "number": {"not": {"maximum": _LEAST}},
    "integer": {"not": {"maximum": _LEAST}, "multipleOf": 1},
    "array": {"not": {"minItems": COUNT_MAX}},
    "object": {"not": {"minProperties": COUNT_MAX}},
}
"""What holds of one kind of value only, said without ``type``, which must not stand in ``anyOf``.

A bound speaks of its own kind and lets all others pass; so a bound that no value of the kind
keeps, negated, holds for the kind alone.
"""

_COPIED = frozenset(
    ("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "required", "pattern")
)
_UNTYPED = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"


def of_json_schema(schema: Mapping[str, Any]) -> Schema:
    """The structural schema that takes what a JSON Schema (draft 2020-12) takes.

    A key that is unknown in a place of several kinds is let through: no structural schema can
    refuse it there.
    """
    if "oneOf" in schema:
        return _merge([_single(one) for one in schema["oneOf"]])
    return _single(schema)


def _single(schema: Mapping[str, Any]) -> Schema:
    """The structural schema of one kind; texts that are listed become a pattern."""
    made = {key: value for key, value in schema.items() if key in _COPIED}
    words = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    made["type"] = "string" if words else schema["type"]
    if words:
        made["enum"] = list(words)
    if "exclusiveMinimum" in schema:
        made |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if made["type"] == "integer":
        made["format"] = "int64"
    if "items" in schema:
        made["items"] = of_json_schema(schema["items"])
    if "properties" in schema:
        made["properties"] = {k: of_json_schema(v) for k, v in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = of_json_schema(schema["additionalProperties"])
    return made


def _merge(alternatives: list[Schema]) -> Schema:
    """One schema for values of several kinds."""
    kinds = list(dict.fromkeys(str(one["type"]) for one in alternatives))
    made: Schema = {}
    for one in alternatives:
        made |= {key: value for key, value in one.items() if key not in ("type", "format", "enum")}
    patterns = [found for one in alternatives if (found := _pattern(one))]
    if patterns:
        made["pattern"] = "|".join(patterns)
    if set(kinds) == {"integer", "string"}:
        return {_INT_OR_STRING: True, **made}
    return {_UNTYPED: True, **made, "anyOf": [KINDS[kind] for kind in kinds]}


def _pattern(schema: Schema) -> str:
    if "enum" in schema:
        return f"^({'|'.join(map(re.escape, schema['enum']))})$"
    return str(schema.get("pattern", ""))


def of_struct(struct: type[msgspec.Struct]) -> Schema:
    """The structural schema of a Struct as msgspec writes it, with the docstrings as descriptions.

    Nothing is required: who reads an object checks that, and a status may be written in parts.

    Raises:
        TypeError: a field's type has no structural schema.
    """
    found = types.type_info(struct)
    return _of_type(found)


def _of_type(found: types.Type) -> Schema:
    if isinstance(found, types.StructType):
        return _of_fields(found)
    maker = _MAKERS.get(type(found))
    if maker is None:
        raise TypeError(f"no structural schema for {type(found).__name__}; add it to _MAKERS")
    return maker(found)


def _of_fields(found: types.StructType) -> Schema:
    docs = field_docs(found.cls)
    properties = {}
    for field in found.fields:
        schema = _of_type(field.type)
        doc = docs.get(field.name)
        properties[field.encode_name] = {"description": doc, **schema} if doc else schema
    return {"type": "object", "properties": properties}


def _of_union(found: Any) -> Schema:
    members = [one for one in found.types if not isinstance(one, types.NoneType)]
    nullable = {"nullable": True} if len(members) < len(found.types) else {}
    if len(members) == 1:
        return _of_type(members[0]) | nullable
    return _merge([_of_type(one) for one in members]) | nullable


def _of_words(words: Iterable[Any]) -> Schema:
    return {"type": "string", "enum": [str(one) for one in words]}


def _of_list(found: Any) -> Schema:
    return {"type": "array", "items": _of_type(found.item_type)}


_MAKERS: dict[type, Callable[[Any], Schema]] = {
    types.StrType: lambda _: {"type": "string"},
    types.IntType: lambda _: {"type": "integer", "format": "int64"},
    types.FloatType: lambda _: {"type": "number"},
    types.BoolType: lambda _: {"type": "boolean"},
    types.EnumType: lambda found: _of_words(one.value for one in found.cls),
    types.LiteralType: lambda found: _of_words(found.values),
    types.ListType: _of_list,
    types.VarTupleType: _of_list,
    types.UnionType: _of_union,
    types.DictType: lambda found: {
        "type": "object",
        "additionalProperties": _of_type(found.value_type),
    },
}


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of its bases, each as one line."""
    docs: dict[str, str] = {}
    cls = getattr(cls, "__origin__", cls)
    for base in reversed(cls.__mro__[:-1]):
        if base.__module__.startswith("mlsched."):
            docs |= _docs_in(textwrap.dedent(inspect.getsource(base)))
    return docs


def _docs_in(source: str) -> dict[str, str]:
    body = ast.parse(source).body[0]
    docs = {}
    previous: ast.stmt | None = None
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        if (
            isinstance(previous, ast.AnnAssign)
            and isinstance(previous.target, ast.Name)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
        ):
            docs[previous.target.id] = " ".join(str(node.value.value).split()).replace("`", "")
        previous = node
    return docs
