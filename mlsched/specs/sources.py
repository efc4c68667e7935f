"""Files and standard input to a job: decides what a file is, and reads it within bounds.

The only module of this layer that opens anything. A file is an MLJob document (YAML, JSON), a
script that begins with ``#!`` and may hold ``#MLSCHED`` and ``#SBATCH`` lines, or a Python file.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from collections.abc import Sequence
from itertools import takewhile
from pathlib import PurePath
from typing import Any, BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec, Metadata
from mlsched.specs import values
from mlsched.specs.directives import MLSCHED, SBATCH, find_directives, has_directives
from mlsched.specs.documents import JobDocument, load_metadata, load_spec, parse_document
from mlsched.specs.fields import FIELDS
from mlsched.specs.flags import Pairs, apply_flags_to_document, find_flag, pair_words
from mlsched.specs.limits import SCRIPT_BYTES_MAX, check_script
from mlsched.specs.problems import show
from mlsched.specs.sbatch import read_sbatch
from mlsched.specs.trees import check_tree, parse_tree

STDIN = "-"
FILE_ANNOTATION = "mlsched.io/file"
"""Name of the script that a job was made of."""

_DOCUMENT_SUFFIXES = (".yaml", ".yml", ".json")
_DOCUMENT_HEAD = re.compile(
    r"(?:\s|#(?!!|MLSCHED|SBATCH).*\n)*(?:\{|---|%|[\"']?(?:apiVersion|kind|metadata|spec)[\"']?\s*:)"
)
_SRUN = re.compile(r"\s*(?:(?:time|exec|if|!)\s+)*srun\s")
_BLOCK_BEGIN, _BLOCK_END = "# /// script", "# ///"
"""Around inline script metadata. Source: PEP 723."""

_EXPECTED = (
    "Expected an MLJob document (YAML or JSON, beginning with apiVersion), "
    "a script whose first line is a shebang (#!/bin/bash), or a Python file (.py)."
)


class Submission(Struct, frozen=True):
    """A job as a file describes it."""

    document: JobDocument
    warnings: tuple[str, ...] = ()
    """Lines for the user's eyes: what the file asks for and mlsched does not do."""
    named: frozenset[str] = frozenset()
    """Fields of JobSpec that a script's directives name, at their defaults too."""


def read_submission(
    path: str, args: Sequence[str] = (), *, stdin: BinaryIO | None = None
) -> Submission:
    """The job that a file describes, checked.

    Args:
        path: A file, or ``-`` for standard input.
        args: Arguments for the script or Python file.
        stdin: Read in place of the process's standard input.

    Raises:
        SpecError: the file cannot be read, is none of the kinds that are known, or is wrong.
    """
    text = read_text(path, stdin=stdin)
    suffix = PurePath(path).suffix.lower()
    source = _source(path)
    if text.startswith("#!"):
        return _from_script(text, path, args)
    if suffix in _DOCUMENT_SUFFIXES or (suffix != ".py" and _DOCUMENT_HEAD.match(text)):
        if args:
            raise SpecError(
                f"{source}: a document takes no arguments, found {show(args[0])}.",
                "Put them into spec.command or spec.args.",
            )
        return _from_document(text, source)
    if suffix == ".py":
        return _from_python(text, path, args)
    if has_directives(text, SBATCH) or has_directives(text, MLSCHED):
        check_script(text, source)
    raise SpecError(f"{source}: this is nothing that can be submitted.", _EXPECTED)


def read_text(path: str, *, stdin: BinaryIO | None = None) -> str:
    """The text of a regular file or of standard input, at most 256 KiB of UTF-8.

    Raises:
        SpecError: missing, unreadable, a directory, a pipe or device, too large, not UTF-8.
    """
    source = _source(path)
    if path == STDIN:
        data = (stdin or sys.stdin.buffer).read(SCRIPT_BYTES_MAX + 1)
    else:
        data = _read_file(path, source)
    if len(data) > SCRIPT_BYTES_MAX:
        raise SpecError(
            f"{source}: larger than a document or script may be ({SCRIPT_BYTES_MAX // 1024} KiB).",
            "Keep data in files of their own and name them in the job.",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{source}: not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}.",
            f"Save it as UTF-8. {_EXPECTED}",
        ) from error


def _source(path: str) -> str:
    return "standard input" if path == STDIN else show(path).strip("'\"")


def _read_file(path: str, source: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{source}: cannot be read: {reason}.", _EXPECTED) from error
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise SpecError(f"{source}: is a directory.", _EXPECTED)
        if not stat.S_ISREG(mode):
            hint = "Pass '-' to read from standard input."
            raise SpecError(f"{source}: is no regular file (a pipe or a device).", hint)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(SCRIPT_BYTES_MAX + 1)
    finally:
        os.close(handle)


def _from_document(text: str, source: str) -> Submission:
    document = parse_document(text, source=source)
    keys = parse_tree(text, source=source)["spec"].keys()
    named = {field.attribute or "time_limit_seconds" for field in FIELDS if field.name in keys}
    return Submission(document, named=frozenset(named))


def _from_script(text: str, path: str, args: Sequence[str]) -> Submission:
    check_script(text, _source(path))
    spec, metadata = JobSpec(script=text), Metadata()
    warnings: list[str] = []
    named: frozenset[str] = frozenset()
    if has_directives(text, SBATCH):
        request = read_sbatch(text)
        spec, metadata, named = request.spec, request.metadata, request.named
        if request.unsupported:
            options = ", ".join(request.unsupported)
            warnings.append(f"mlsched has no {options}: ignored")
        warnings += request.notes
        warnings += _warn_of_srun(text)
    if path != STDIN:
        annotations = {FILE_ANNOTATION: PurePath(path).name, **metadata.annotations}
        metadata = replace(metadata, annotations=annotations)
    document = JobDocument(replace(spec, command=tuple(args)), metadata)
    return _with_directives(text, document, warnings, named)


def _warn_of_srun(text: str) -> list[str]:
    lines = [number for number, line in enumerate(text.split("\n"), 1) if _SRUN.match(line)]
    if not lines:
        return []
    return [
        f"line {lines[0]} calls srun, which is not provided: the script runs once. "
        "For one process a task: mlsched submit --tasks N -- COMMAND"
    ]


def _from_python(text: str, path: str, args: Sequence[str]) -> Submission:
    spec = JobSpec(command=("python3", path, *args))
    return _with_directives(text, JobDocument(spec), [], frozenset())


def _with_directives(
    text: str, document: JobDocument, warnings: list[str], named: frozenset[str]
) -> Submission:
    table = _read_metadata_block(text)
    if table:
        document, keys = _apply_table(document, table)
        named |= keys
    pairs = list(_directive_pairs(text))
    document = apply_flags_to_document(document, pairs, os.environ)
    named |= {find_flag(name).field for name, _ in pairs}
    return Submission(document, tuple(warnings), named)


def _directive_pairs(text: str) -> Pairs:
    for directive in find_directives(text, MLSCHED):
        yield from pair_words(directive.words, f"{MLSCHED} line {directive.line}")


def _read_metadata_block(text: str) -> dict[str, Any]:
    """The table ``tool.mlsched`` of inline script metadata; empty if there is none."""
    lines = [line.rstrip() for line in text.split("\n")]
    if _BLOCK_BEGIN not in lines:
        return {}
    inside = list(takewhile(_is_block_line, lines[lines.index(_BLOCK_BEGIN) + 1 :]))
    if _BLOCK_END not in inside:
        return {}
    last = len(inside) - 1 - inside[::-1].index(_BLOCK_END)
    try:
        table = (
            tomllib.loads("\n".join(line[2:] for line in inside[:last]))
            .get("tool", {})
            .get("mlsched", {})
        )
    except (tomllib.TOMLDecodeError, RecursionError, AttributeError) as error:
        raise SpecError(f"# /// script: not TOML: {show(str(error))}.") from error
    return values.read_object(table, "tool.mlsched")


def _is_block_line(line: str) -> bool:
    return line == "#" or line.startswith("# ")


def _apply_table(
    document: JobDocument, table: dict[str, Any]
) -> tuple[JobDocument, frozenset[str]]:
    check_tree(table, source="tool.mlsched")
    fields = {key: value for key, value in table.items() if key != "name"}
    for key in ("command", "script", "args"):
        if key in fields:
            raise SpecError(f"tool.mlsched.{key}: has no place in a file that is run itself.")
    read = load_spec(fields)
    changed = {
        name: getattr(read, name)
        for name in JobSpec.__struct_fields__
        if getattr(read, name) != getattr(JobSpec(), name)
    }
    metadata = document.metadata
    if "name" in table:
        metadata = replace(metadata, name=load_metadata({"name": table["name"]}).name)
    return JobDocument(replace(document.spec, **changed), metadata), frozenset(changed)
