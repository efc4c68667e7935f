"""What decides a job: flags over environment over file over config.toml over what is built in.

Turns a job as its author wrote it, and the flags of a command or the keywords of ``ml.submit``,
into the document that is sent. Called by the command line and by `mlsched.api.jobs`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from msgspec.structs import replace

from mlsched.errors import ConfigError, SpecError
from mlsched.model.specs import JobSpec
from mlsched.specs.documents import JobDocument
from mlsched.specs.flags import FLAGS, NAME_FIELD, Flag, apply_flags_to_document, find_flag
from mlsched.specs.limits import validate_spec

Pair = tuple[str, str]

ENVIRONMENT_PREFIX = "MLSCHED_"
_SET_IN_JOBS = frozenset({"--name"})
"""Flags whose variable a job finds set for itself: a job that submits jobs does not mean them."""

_ONE_OF = (
    frozenset({"gpus_per_node", "gpus", "gpus_per_task"}),
    frozenset({"memory_per_node", "memory_per_cpu", "memory_per_gpu"}),
    frozenset({"milli_cpus_per_task", "milli_cpus_per_gpu"}),
)
"""Fields that say one thing in several ways: a default of one must not undo another."""


def combine(
    document: JobDocument,
    flags: Iterable[Pair],
    defaults: Mapping[str, str],
    *,
    named: Collection[str] = (),
    environ: Mapping[str, str] | None = None,
) -> JobDocument:
    """The document with all layers applied, checked as a whole.

    Args:
        document: What the file, script or command says.
        flags: As given, by any of their names.
        defaults: The table ``[defaults]`` of config.toml.
        named: Fields that the file names, where it gives them their built-in value too.
        environ: Where ``MLSCHED_*`` and ``--env NAME`` look; the process's own by default.

    Raises:
        SpecError: a value that cannot be read, or a spec that cannot be run.
        ConfigError: the same, when config.toml or a variable is to blame.
    """
    environ = os.environ if environ is None else environ
    validate_spec(document.spec)
    written = _written_fields(document, named)
    below = [pair for pair in default_flags(defaults) if find_flag(pair[0]).field not in written]
    document = _apply_blaming(document, below, environ, "config.toml, [defaults]")
    document = _apply_blaming(document, environment_flags(environ), environ, "the environment")
    return apply_flags_to_document(document, flags, environ)


def _apply_blaming(
    document: JobDocument, pairs: Iterable[Pair], environ: Mapping[str, str], where: str
) -> JobDocument:
    try:
        return apply_flags_to_document(document, pairs, environ)
    except SpecError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from error


def _written_fields(document: JobDocument, named: Collection[str]) -> set[str]:
    spec, plain = document.spec, JobSpec()
    fields = {
        field
        for field in JobSpec.__struct_fields__
        if field in named or getattr(spec, field) != getattr(plain, field)
    }
    if document.metadata.name:
        fields.add(NAME_FIELD)
    for group in _ONE_OF:
        if fields & group:
            fields |= group
    return fields


def variable_of(flag: Flag) -> str:
    """The environment variable that stands for a flag: ``MLSCHED_QUEUE`` for ``--queue``."""
    return ENVIRONMENT_PREFIX + flag.names[0].removeprefix("--").replace("-", "_").upper()


def environment_flags(environ: Mapping[str, str]) -> list[Pair]:
    """Flags that the environment sets; an empty variable counts as not set."""
    inside = "MLSCHED_JOB_ID" in environ
    return [
        (flag.names[0], "" if flag.switch else value)
        for flag in FLAGS
        if (value := environ.get(variable_of(flag)))
        and not (inside and flag.names[0] in _SET_IN_JOBS)
    ]


def default_flags(defaults: Mapping[str, str]) -> list[Pair]:
    """Flags of the table ``[defaults]`` of config.toml.

    Raises:
        ConfigError: there is no such flag.
    """
    pairs = []
    for name, value in defaults.items():
        try:
            flag = find_flag(name)
        except SpecError as error:
            raise ConfigError(f"config.toml, [defaults]: {error.message}", error.hint) from error
        pairs.append((flag.names[0], value))
    return pairs


def with_name(document: JobDocument, name: str) -> JobDocument:
    """The document with this name, unless it has one."""
    if document.metadata.name or not name:
        return document
    return JobDocument(document.spec, replace(document.metadata, name=name))
