"""From the words and flags of ``run`` and ``submit`` to the document that is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mlsched.api.layering import combine
from mlsched.api.submissions import submit_args
from mlsched.cli.render.texts import one_line, printable
from mlsched.cli.session import Session
from mlsched.cli.words import is_behind_dashes, names_file
from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec
from mlsched.specs.documents import JobDocument, load_document, to_document
from mlsched.specs.edits import edit_document
from mlsched.specs.sources import Submission, read_submission

JsonObject = dict[str, Any]
Pairs = Sequence[tuple[str, str]]

ENV_FILE_BYTES_MAX = 1 << 20
_VARIABLE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


class Request(Struct, frozen=True):
    """A job that is ready to be sent."""

    document: JobDocument
    args: JsonObject
    """Arguments of the operations ``submit`` and ``preview``."""
    named: frozenset[str] = frozenset()


def read_request(
    session: Session, words: Sequence[str], flags: Pairs, extras: Mapping[str, Any]
) -> Request:
    """The request of a command line.

    Raises:
        SpecError, ConfigError: it cannot be run as it is.
    """
    found = _read_words(session, list(words))
    for warning in found.warnings:
        session.tell(f"warning: {printable(warning)}")
    file_pairs = [pair for path in extras["env_file"] or () for pair in read_env_file(path)]
    document = combine(
        found.document,
        [*file_pairs, *(_as_typed(session.words, pair) for pair in flags)],
        session.settings.defaults,
        named=found.named,
    )
    changes = dict(map(_parse_change, extras["set_fields"] or ()))
    if changes:
        tree = to_document(document.spec, document.metadata)
        document = load_document(edit_document(tree, changes))
    warn_of_unused(session, document.spec)
    tree = to_document(document.spec, document.metadata)
    key = extras["idempotency_key"]
    if key == "":
        raise SpecError("--idempotency-key: expected a key, found nothing.")
    return Request(document, submit_args(tree, key or ""), found.named)


def warn_of_unused(session: Session, spec: JobSpec) -> None:
    """Say what of a job only a cluster uses."""
    if session.is_local:
        for field, given in (("image", spec.image), ("envSecrets", spec.env_secrets)):
            if given:
                session.tell(f"warning: {field} is not used on this machine")


def _as_typed(line: Sequence[str], pair: tuple[str, str]) -> tuple[str, str]:
    """A flag by the name it was typed with where that matters: Slurm's ``-n`` is a count."""
    name, value = pair
    short = name == "--name" and value.isdecimal() and ("-n" in line or f"-n{value}" in line)
    return ("-n", value) if short else pair


def _read_words(session: Session, words: list[str]) -> Submission:
    if not words:
        raise SpecError(
            "there is nothing to run.",
            "Write the command behind --: mlsched run -- python train.py",
        )
    first, rest = words[0], words[1:]
    if names_file(first) and not is_behind_dashes(session.words, words):
        return read_submission(first, rest)
    return Submission(JobDocument(JobSpec(command=tuple(words))))


def read_env_file(path: str) -> list[tuple[str, str]]:
    """``--env`` flags of a file of NAME=VALUE lines; ``#`` begins a comment line.

    Raises:
        SpecError: it cannot be read, or a line is no assignment.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(ENV_FILE_BYTES_MAX + 1)
        lines = data.decode().split("\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"--env-file {one_line(path)[-200:]}: cannot be read: {reason}.") from error
    if len(data) > ENV_FILE_BYTES_MAX:
        raise SpecError(f"--env-file {one_line(path)[-200:]}: larger than 1 MiB.")
    pairs = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _VARIABLE.fullmatch(text)
        if found is None:
            raise SpecError(
                f"--env-file {one_line(path)[-200:]}, line {number}: expected NAME=VALUE.",
                "Values may stand in single or double quotes; nothing is expanded.",
            )
        pairs.append(("--env", f"{found[1]}={_unquote(found[2].strip())}"))
    return pairs


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _parse_change(text: str) -> tuple[str, Any]:
    """``path=value`` of ``--set``: JSON where it is JSON, else text.

    Raises:
        SpecError: not of that form.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SpecError(
            f"--set: expected PATH=VALUE, found {one_line(text)[:60]!r}.",
            "Such as --set gpusPerNode=2 or --set env.LR=0.1.",
        )
    if path.removeprefix("spec.").startswith(("env.", "labels.")):
        return path, value
    try:
        return path, json.loads(value)
    except (ValueError, RecursionError):
        return path, value


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """All ``--set`` options of a command."""
    return dict(map(_parse_change, texts))


def submit(session: Session, request: Request) -> JsonObject:
    """Submit a request, and tell what is odd about where it went."""
    found: JsonObject = session.client.call("submit", **request.args)
    tell_warnings(session, found)
    return found


def tell_warnings(session: Session, answer: JsonObject) -> None:
    """Tell what came with the answer to a submission."""
    for warning in answer.get("warnings", ()):
        session.tell(f"warning: {printable(warning)}.")


def preview(session: Session, request: Request) -> JsonObject:
    """What would become of a request; the document also names what its file names."""
    found: JsonObject = session.client.call("preview", **request.args)
    written = to_document(request.document.spec, request.document.metadata, named=request.named)
    spec = {**written["spec"], **found["document"]["spec"]}
    return {**found, "document": {**found["document"], "spec": spec}}


def preview_text(found: JsonObject, *, is_local: bool = True) -> str:
    """A preview for people: the decision, then the document as YAML.

    Args:
        is_local: A machine refuses what never fits; in a cluster it waits for nodes that may come.
    """
    from mlsched.specs.documents import to_yaml

    reason = found.get("reason") or {}
    if found["starts_now"] is None:
        decision = printable(str(reason.get("message")))
    elif found["starts_now"]:
        places = [
            f"{group['node']} ({', '.join(group['gpus']) or 'no GPU'})"
            for group in found["placement"]
        ]
        decision = f"would start now on {'; '.join(places)}"
    else:
        refused = is_local and reason.get("code") == "NeverFits"
        decision = "would be refused" if refused else "would not start now"
        decision += f": {printable(str(reason.get('message') or reason))}"
    told = [decision, *map(printable, found.get("notes", ())), "nothing was submitted"]
    lines = "".join(f"# {line}\n" for line in told)
    return f"{lines}{to_yaml(found['document']).rstrip()}"
