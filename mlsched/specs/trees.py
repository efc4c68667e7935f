"""YAML 1.2 or JSON text to plain values, safely: bounded in size, depth and count.

Text from anywhere goes through here before anything else looks at it. PyYAML's events are used,
never its constructors: anchors, aliases, tags, merge keys, duplicate keys and several documents
are refused, and scalars are read by the core schema of YAML 1.2, so that ``no``, ``1_0`` and
``12:30:00`` stay text.

Source: YAML 1.2.2, section 10.3 (core schema).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from mlsched.errors import SpecError
from mlsched.specs.problems import show

DOCUMENT_BYTES_MAX = 256 * 1024
DEPTH_MAX = 32
NODES_MAX = 15_000
INTEGER_MAX = 2**63 - 1

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_NOT_TEXT_FIRST = frozenset("+-.0123456789~nNtTfF")
"""What an unquoted scalar that is not text begins with."""
_NULL = re.compile(r"(?:null|Null|NULL|~|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INTEGERS = (
    (re.compile(r"[-+]?[0-9]+"), 10),
    (re.compile(r"0o[0-7]+"), 8),
    (re.compile(r"0x[0-9a-fA-F]+"), 16),
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def parse_tree(text: str, *, source: str = "-") -> Any:
    """The plain value that a YAML or JSON text holds: dict, list, str, int, float, bool, None.

    Args:
        text: The document.
        source: Its name in errors.

    Raises:
        SpecError: not one document in the subset that the module docstring names, more than
            256 KiB, deeper than 32, more than 15,000 values. Answers in under 100 ms.
    """
    text = _checked_text(text, source)
    if text.lstrip()[:1] in ("{", "["):
        try:
            return _parse_json(text, source)
        except json.JSONDecodeError:
            pass  # a flow mapping of YAML looks like JSON up to its first bare word
    return _parse_yaml(text, source)


def _checked_text(text: str, source: str) -> str:
    text = text.removeprefix("\ufeff")
    if len(text) > DOCUMENT_BYTES_MAX or len(text.encode(errors="replace")) > DOCUMENT_BYTES_MAX:
        raise SpecError(
            f"{source}: larger than a document may be ({DOCUMENT_BYTES_MAX // 1024} KiB).",
            "Keep data in files of their own and name them in the document.",
        )
    if "\0" in text:
        raise SpecError(f"{source}: holds NUL bytes: binary, or not UTF-8.", "Save it as UTF-8.")
    if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
        raise SpecError(f"{source}: holds bytes that are not UTF-8.", "Save it as UTF-8.")
    return text


def check_tree(tree: object, *, source: str = "-") -> None:
    """Refuse a value that `parse_tree` would not have made: too deep, too many, of other types.

    Raises:
        SpecError: says which bound was met.
    """
    waiting: list[tuple[object, int]] = [(tree, 1)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEPTH_MAX:
            raise _too_deep(source)
        if count > NODES_MAX:
            raise _too_many(source)
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise SpecError(f"{source}: a key must be text, found {show(key)}.")
            count += len(value)
            waiting.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend((inner, depth + 1) for inner in value)
        else:
            _check_scalar(value, source)


def _check_scalar(value: object, source: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{source}: numbers must be finite, found {value}.")
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise SpecError(f"{source}: a number beyond 64 bits, found {show(value)}.")
    if value is not None and not isinstance(value, (str, int, float)):
        raise SpecError(f"{source}: a value of type {type(value).__name__} has no place here.")


def _too_deep(source: str) -> SpecError:
    return SpecError(f"{source}: nested deeper than {DEPTH_MAX} levels.")


def _too_many(source: str) -> SpecError:
    return SpecError(f"{source}: more than {NODES_MAX} keys and values.")


def _parse_json(text: str, source: str) -> Any:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise SpecError(f"{source}: the key {show(twice)} is given twice.", "Keep one of them.")
        return made

    try:
        tree = json.loads(text, object_pairs_hook=refuse_duplicates, parse_int=_bounded_integer)
    except RecursionError as error:
        raise _too_deep(source) from error
    check_tree(tree, source=source)
    return tree


def _bounded_integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else INTEGER_MAX + 1


class _Builder:
    """One pass over the events of a YAML text, building plain values with an explicit stack."""

    def __init__(self, events: Iterator[Any], source: str) -> None:
        self.events = events
        self.source = source
        self.count = 0

    def fail(self, event: Any, message: str, hint: str = "") -> SpecError:
        mark = event.start_mark
        return SpecError(f"{self.source} line {mark.line + 1}: {message}", hint)

    def build(self) -> Any:
        """The value of the only document; None when there is none."""
        stack: list[Any] = []
        keys: list[Any] = []
        root: Any = None
        documents = 0
        for event in self.events:
            kind = type(event)
            if kind is yaml.DocumentStartEvent:
                documents += 1
                self.check_document(event, documents)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                stack.pop()
                keys.pop()
            elif kind in _NODES:
                value = self.value_of(event, kind)
                if stack and isinstance(stack[-1], dict) and keys[-1] is _NO_KEY:
                    keys[-1] = self.key_of(event, value, stack[-1])
                    continue
                root = self.put(stack, keys, value, root)
                if isinstance(value, (dict, list)):
                    if len(stack) > DEPTH_MAX:
                        raise _too_deep(self.source)
                    stack.append(value)
                    keys.append(_NO_KEY)
        return root

    def check_document(self, event: Any, documents: int) -> None:
        if documents > 1:
            raise self.fail(event, "a second document begins.", "Submit one document at a time.")
        if event.version and tuple(event.version) != (1, 2):
            raise self.fail(event, "only YAML 1.2 is read.", "Remove the %YAML line.")
        if event.tags:
            raise self.fail(event, "%TAG has no place here.", "Remove the %TAG line.")

    def put(self, stack: list[Any], keys: list[Any], value: Any, root: Any) -> Any:
        if not stack:
            return value
        if isinstance(stack[-1], dict):
            stack[-1][keys[-1]] = value
            keys[-1] = _NO_KEY
        else:
            stack[-1].append(value)
        return root

    def value_of(self, event: Any, kind: type) -> Any:
        self.count += 1
        if self.count > NODES_MAX:
            raise _too_many(self.source)
        if event.anchor is not None:
            what = "an alias" if kind is yaml.AliasEvent else "an anchor"
            raise self.fail(event, f"{what} ({show(event.anchor)}) has no place here.", _PLAINLY)
        if event.tag is not None:
            raise self.fail(event, f"a tag ({show(event.tag)}) has no place here.", _PLAINLY)
        if kind is yaml.MappingStartEvent:
            return {}
        if kind is yaml.SequenceStartEvent:
            return []
        if not event.implicit[0]:
            return event.value
        try:
            return resolve_plain(event.value)
        except SpecError as error:
            raise self.fail(event, error.message, error.hint) from error

    def key_of(self, event: Any, value: Any, mapping: dict[str, Any]) -> str:
        if not isinstance(value, str):
            hint = "Quote it." if isinstance(event, yaml.ScalarEvent) else ""
            raise self.fail(event, f"a key must be text, found {show(value)}.", hint)
        if value == "<<" and event.implicit[0]:
            raise self.fail(event, "a merge key (<<) has no place here.", _PLAINLY)
        if value in mapping:
            raise self.fail(event, f"the key {show(value)} is given twice.", "Keep one of them.")
        return value


_NO_KEY = object()
_NODES = frozenset(
    {yaml.ScalarEvent, yaml.AliasEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent}
)
_PLAINLY = "Write the value out where it is used."


def resolve_plain(text: str) -> Any:
    """What an unquoted scalar is by the core schema of YAML 1.2.

    Raises:
        SpecError: infinite, not a number, or an integer beyond 64 bits.
    """
    if text and text[0] not in _NOT_TEXT_FIRST:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    for pattern, base in _INTEGERS:
        if pattern.fullmatch(text):
            if len(text) > 70 or abs(number := int(text, base)) > INTEGER_MAX:
                raise SpecError(f"a number beyond 64 bits, found {show(text)}.", "Quote it.")
            return number
    if _NOT_FINITE.fullmatch(text):
        raise SpecError(f"numbers must be finite, found {text}.", "Quote it if it is text.")
    if len(text) <= 70 and _FLOAT.fullmatch(text):
        return _finite(text)
    return text


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise SpecError(f"numbers must be finite, found {text}.", "Quote it if it is text.")
    return number


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER), source).build()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(
            f"{source}{place}: not YAML: {error.problem or error.context}.",
            "Check indentation and quotes; tabs cannot indent.",
        ) from error
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", "not YAML")
        raise SpecError(f"{source}: not YAML: {reason}.", "Save it as UTF-8 text.") from error


class _Dumper(_DUMPER):  # type: ignore[misc, valid-type]
    """Writes text so that readers of YAML 1.1 and of 1.2 both read the same text."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = None if isinstance(_resolved_or_none(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _resolved_or_none(text: str) -> Any:
    try:
        return resolve_plain(text)
    except SpecError:
        return None


_represent: Callable[..., None] = _Dumper.add_representer
_represent(str, _represent_text)


def to_yaml(tree: object) -> str:
    """Plain values as YAML: keys in their order, scripts as blocks, no anchors.

    ``parse_tree(to_yaml(x)) == x`` for every x that `check_tree` accepts.
    """
    marker, everything = "block", repr(tree)
    while marker in everything:
        marker += "_"
    blocks: list[str] = []
    lifted = _lift_blocks(tree, marker, blocks)
    written: str = yaml.dump(
        lifted, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000, indent=2
    )
    if not blocks:
        return written
    place = re.compile(rf"^([ -]*)(.*){marker}(\d+)\.$", re.MULTILINE)
    return place.sub(lambda found: _write_block(found, blocks[int(found[3])]), written)


def _lift_blocks(tree: Any, marker: str, blocks: list[str]) -> Any:
    """The tree with a marker in the place of each text that is written as a block.

    PyYAML would quote a script that has a tab or a space at the end of a line.
    """
    if isinstance(tree, dict):
        return {
            key: _lift_blocks(value, marker, blocks) if _is_simple_key(key) else value
            for key, value in tree.items()
        }
    if isinstance(tree, (list, tuple)):
        return [_lift_blocks(value, marker, blocks) for value in tree]
    if isinstance(tree, str) and "\n" in tree and _is_block_text(tree):
        blocks.append(tree)
        return f"{marker}{len(blocks) - 1}."
    return tree


def _is_simple_key(key: object) -> bool:
    """Whether ``key: value`` is on one line; else PyYAML writes ``? key``, where no block fits.

    Source: YAML 1.2, section 7.4.2: an implicit key has one line; PyYAML allows it 128 characters.
    """
    return isinstance(key, str) and len(key) < 100 and key.isprintable()


def _is_block_text(text: str) -> bool:
    lines = text.split("\n")
    readable = all(one.isprintable() or one == "\t" for line in lines for one in line)
    return readable and lines[0][:1] not in ("", " ", "\t")


def _write_block(found: re.Match[str], text: str) -> str:
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    keep = "-" if ends == 0 else "" if ends == 1 else "+"
    indent = " " * (len(found[1]) + 2)
    lines = [indent + line if line else "" for line in text.removesuffix("\n").split("\n")]
    return "\n".join([f"{found[1]}{found[2]}|{keep}", *lines])
