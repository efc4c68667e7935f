"""The flags that describe a job, one table for the command line and for ``#MLSCHED`` lines.

A flag turns text into changes of a JobSpec. The command line declares its own options, but reads
their values through `apply_flags`, so that ``--gpus H100:2`` means the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mlsched.errors import SpecError
from mlsched.model.specs import JobSpec
from mlsched.specs import values
from mlsched.specs.documents import JobDocument
from mlsched.specs.limits import check_name, validate_spec
from mlsched.specs.problems import fault, unknown
from mlsched.units import parse_span_s

Pairs = Iterable[tuple[str, str]]
"""Flags and their values as text, in the order given; a switch has an empty value."""

Changes = dict[str, Any]
Change = Callable[[JobSpec, str, str], Changes]

MIG_PROFILE = re.compile(r"(?:\d+c\.)?\d+g\.\d+gb(?:\+[\w.]+)?", re.IGNORECASE)
"""``1g.10gb``, ``1c.2g.20gb``, ``1g.10gb+me``. Source: NVIDIA MIG user guide, device names."""

_GPUS = re.compile(r"(?:(.+):)?(\d{1,6})")
_GPU_MEMORY = re.compile(r"\d+(?:\.\d+)?[GT]i?B", re.IGNORECASE)
_NO_LIMIT = ("0", "unlimited", "infinite", "none")
_ONE_SIZE_OF_GPUS = {"gpus_per_node": 0, "gpus": 0, "gpus_per_task": 0}
_ONE_SIZE_OF_MEMORY = {"memory_per_node": 0, "memory_per_cpu": 0, "memory_per_gpu": 0}


class Flag(Struct, frozen=True):
    """One flag of the table."""

    names: tuple[str, ...]
    """The long name first, then the short one and what other tools call it."""
    field: str
    """The field that it sets: of JobSpec, or ``metadata.name``."""
    change: Change
    """From the spec so far, the value and its name in errors to the fields that change."""
    help: str
    metavar: str = "TEXT"
    repeats: bool = False
    """True when each use adds; otherwise the last use holds."""
    switch: bool = False
    """True when it takes no value."""


def read_gpus(text: str, where: str = "--gpus") -> Changes:
    """``8``, ``H100:8``, ``H100``, ``24GB:2`` or ``1g.10gb:1`` as fields of a spec, per node.

    Raises:
        SpecError: not of that form; parts of a GPU are asked for by MIG profile.
    """
    text = text.strip()
    parsed = _GPUS.fullmatch(text)
    kind, count = (parsed[1] or "", int(parsed[2])) if parsed else (text, 1)
    is_kind = re.fullmatch(r"[A-Za-z0-9][\w.+ -]*", kind) and not re.fullmatch(r"[\d.]+", kind)
    if kind and not is_kind:
        hint = "Part of a GPU is asked for by its MIG profile, such as 1g.10gb:1."
        raise fault(where, "a number, MODEL:NUMBER, MEMORY:NUMBER or PROFILE:NUMBER", text, hint)
    mig = MIG_PROFILE.fullmatch(kind) is not None
    by_memory = _GPU_MEMORY.fullmatch(kind) is not None
    return {
        **_ONE_SIZE_OF_GPUS,
        "gpus_per_node": count,
        "gpu_model": "" if by_memory else kind,
        "mig": mig,
        "gpu_memory_min_bytes": values.read_gpu_memory(kind, where) if by_memory else 0,
    }


def read_time_limit(text: str, where: str = "--time") -> int:
    """Seconds of ``2h``, ``1-00:00:00``, or minutes as a bare number; 0 for no limit."""
    return 0 if text.strip().lower() in _NO_LIMIT else parse_span_s(text, what=where)


def read_seconds(text: str, where: str) -> int:
    """Seconds of ``30s`` or ``2m``; a bare number is refused, for it could be either."""
    if text.strip() in ("0", "0s"):
        return 0
    if text.strip().isdecimal():
        raise fault(where, "a time with a unit such as 30s or 2m", text)
    return parse_span_s(text, what=where, hint="A bare number could be seconds or minutes.")


def read_count(text: str, where: str) -> int:
    """A whole number, not negative."""
    if re.fullmatch(r"\d{1,9}", text.strip()) is None:
        raise fault(where, "a whole number", text)
    return int(text)


def _gpus(spec: JobSpec, text: str, where: str) -> Changes:
    return read_gpus(text, where)


def _gpus_per_task(spec: JobSpec, text: str, where: str) -> Changes:
    return {**_ONE_SIZE_OF_GPUS, "gpus_per_task": read_count(text, where)}


def _memory(spec: JobSpec, text: str, where: str) -> Changes:
    return {**_ONE_SIZE_OF_MEMORY, "memory_per_node": values.read_memory(text, where)}


def _cpus(spec: JobSpec, text: str, where: str) -> Changes:
    return {"milli_cpus_per_task": values.read_cpus(text, where), "milli_cpus_per_gpu": 0}


def _count(field: str) -> Change:
    return lambda spec, text, where: {field: read_count(text, where)}


def _text(field: str) -> Change:
    return lambda spec, text, where: {field: text}


def _queue(spec: JobSpec, text: str, where: str) -> Changes:
    first, *others = [part.strip() for part in text.split(",")]
    return {"queue": first, "queues": tuple(others)}


def _priority(spec: JobSpec, text: str, where: str) -> Changes:
    number = re.fullmatch(r"[-+]?\d{1,9}", text.strip())
    found = int(text) if number else text.strip().lower()
    return {"priority": values.read_priority(found, where)}


def _time(spec: JobSpec, text: str, where: str) -> Changes:
    return {"time_limit_seconds": read_time_limit(text, where)}


def _grace(spec: JobSpec, text: str, where: str) -> Changes:
    return {"grace_seconds": read_seconds(text, where)}


def _launch(spec: JobSpec, text: str, where: str) -> Changes:
    if text not in ("each", "once"):
        raise fault(where, "each or once", text)
    return {"launch": text}


def _signal(spec: JobSpec, text: str, where: str) -> Changes:
    return {"signal": values.read_signal(text, where)}


def _array(spec: JobSpec, text: str, where: str) -> Changes:
    return {"array": values.parse_array(text, where)}


def _after(spec: JobSpec, text: str, where: str) -> Changes:
    added = tuple(values.read_dependency(part, where) for part in text.split(","))
    return {"after": (*spec.after, *(one for one in added if one not in spec.after))}


def _env_secret(spec: JobSpec, text: str, where: str) -> Changes:
    added = [part for part in text.split(",") if part not in spec.env_secrets]
    return {"env_secrets": (*spec.env_secrets, *added)}


def _requeue(spec: JobSpec, text: str, where: str) -> Changes:
    return {"requeue": True}


def _assignment(field: str) -> Change:
    def change(spec: JobSpec, text: str, where: str) -> Changes:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise fault(where, "NAME=VALUE", text)
        return {field: {**getattr(spec, field), name: value}}

    return change


NAME_FIELD = "metadata.name"

FLAGS: tuple[Flag, ...] = (
    Flag(("--name", "-n", "--job-name", "-J"), NAME_FIELD, _text(NAME_FIELD), "Name of the job."),
    Flag(
        ("--gpus", "-g", "--gpus-per-node"),
        "gpus_per_node",
        _gpus,
        "GPUs of each node: 2, H100:2, 40GB:2 (least memory) or 1g.10gb:1 (MIG).",
        "[MODEL:]N",
    ),
    Flag(("--gpus-per-task",), "gpus_per_task", _gpus_per_task, "GPUs of each task.", "N"),
    Flag(
        ("--cpus", "--cpus-per-task"),
        "milli_cpus_per_task",
        _cpus,
        "CPUs of each task: 4, 0.5 or 500m.",
        "N",
    ),
    Flag(
        ("--memory", "--mem"),
        "memory_per_node",
        _memory,
        "Memory of each node: 64G, 512M, or all.",
        "SIZE",
    ),
    Flag(("--nodes", "-N"), "nodes", _count("nodes"), "Node groups; all start or none.", "N"),
    Flag(("--tasks", "--ntasks"), "tasks", _count("tasks"), "Tasks in all.", "N"),
    Flag(
        ("--tasks-per-node", "--ntasks-per-node"),
        "tasks_per_node",
        _count("tasks_per_node"),
        "Tasks of each node.",
        "N",
    ),
    Flag(
        ("--launch",),
        "launch",
        _launch,
        "Start the command for each task, or once for the job.",
        "each|once",
    ),
    Flag(
        ("--constraint",),
        "constraint",
        _text("constraint"),
        "GPU models that would do: 'v100|a100'.",
    ),
    Flag(("--image",), "image", _text("image"), "Container image on Kubernetes.", "IMAGE"),
    Flag(
        ("--layer",),
        "layer",
        _text("layer"),
        "Layer to run on; left out, gpu for jobs with GPUs and data for others.",
        "NAME",
    ),
    Flag(
        ("--node-selector",),
        "node_selector",
        _assignment("node_selector"),
        "Label that a node must have.",
        "KEY=VALUE",
        True,
    ),
    Flag(
        ("--time", "-t", "--max-duration"),
        "time_limit_seconds",
        _time,
        "End the job after 2h, 1h30m or 1-00:00:00; a bare number is minutes.",
        "TIME",
    ),
    Flag(
        ("--queue", "-q", "--partition", "-p"),
        "queue",
        _queue,
        "Queue to wait in; several by comma, the best first.",
        "NAME",
    ),
    Flag(
        ("--priority", "--qos"),
        "priority",
        _priority,
        "Higher starts first: low, normal, high or a number.",
        "LEVEL",
    ),
    Flag(
        ("--label", "-l"), "labels", _assignment("labels"), "Label of the job.", "KEY=VALUE", True
    ),
    Flag(
        ("--env", "-e"),
        "env",
        _assignment("env"),
        "Environment variable; NAME alone takes today's value.",
        "NAME[=VALUE]",
        True,
    ),
    Flag(
        ("--env-secret",),
        "env_secrets",
        _env_secret,
        "Secret on Kubernetes whose entries become environment variables.",
        "NAME",
        True,
    ),
    Flag(
        ("--workdir", "-D", "--chdir"), "workdir", _text("workdir"), "Directory to run in.", "DIR"
    ),
    Flag(
        ("--output-file",),
        "output",
        _text("output"),
        "File that gets a copy of the output; %j id, %x name, %a array index.",
        "FILE",
    ),
    Flag(
        ("--array", "-a"),
        "array",
        _array,
        "One job for each index: 0-9, 1,3,5, 0-99%8 (eight at once).",
        "INDICES",
    ),
    Flag(
        ("--after",),
        "after",
        _after,
        "Wait for another job to end ok, any way, or in failure.",
        "JOB[:ok|any|fail]",
        True,
    ),
    Flag(("--retries",), "retries", _count("retries"), "Run a failed job again so often.", "N"),
    Flag(("--requeue",), "requeue", _requeue, "Run again when the machine was lost.", switch=True),
    Flag(
        ("--signal",),
        "signal",
        _signal,
        "Early notice before the time limit: USR2@120; B: for the first process only.",
        "[B:]NAME[@SECONDS]",
    ),
    Flag(("--grace",), "grace_seconds", _grace, "Time from SIGTERM to SIGKILL.", "TIME"),
)

BY_NAME: dict[str, Flag] = {name: flag for flag in FLAGS for name in flag.names}


def find_flag(name: str) -> Flag:
    """The flag of a name such as ``--gpus``, ``-g`` or ``gpus``.

    Raises:
        SpecError: there is none; the nearest is suggested.
    """
    flag = BY_NAME.get(name) or BY_NAME.get(f"--{name}")
    if flag is None:
        raise unknown("flags", name, (one.names[0] for one in FLAGS))
    return flag


def _with_value(name: str, environment: Mapping[str, str]) -> str:
    if name not in environment:
        raise fault("--env", "NAME=VALUE, or the name of a variable that is set here", name)
    return f"{name}={environment[name]}"


def apply_flags(spec: JobSpec, pairs: Pairs, environment: Mapping[str, str] = {}) -> JobSpec:
    """The spec with each flag applied in order; the result is not validated as a whole.

    Args:
        spec: What to start from: an empty JobSpec, a file's, a script's.
        pairs: Flags and values; ``--name`` has no place here (see `apply_flags_to_document`).
        environment: Where ``--env NAME`` without a value takes it from.

    Raises:
        SpecError: an unknown flag, or a value that cannot be read.
    """
    for name, text in pairs:
        flag = find_flag(name)
        if flag.field == NAME_FIELD:
            raise fault("flags", "a flag of the spec", name)
        if flag.field == "env" and "=" not in text:
            text = _with_value(text, environment)  # noqa: PLW2901
        spec = replace(spec, **flag.change(spec, text, name))
    return spec


def apply_flags_to_document(
    document: JobDocument,
    pairs: Pairs,
    environment: Mapping[str, str] = {},
) -> JobDocument:
    """The document with each flag applied, the name included, and validated.

    Raises:
        SpecError: an unknown flag, a value that cannot be read, or a spec that cannot be run.
    """
    metadata, rest = document.metadata, []
    for name, text in pairs:
        if find_flag(name).field != NAME_FIELD:
            rest.append((name, text))
            continue
        if name == "-n" and text.isdecimal():
            raise fault("-n", "a name", text, f"Slurm's -n {text} is --tasks {text} here.")
        check_name(text, name)
        metadata = replace(metadata, name=text)
    spec = apply_flags(document.spec, rest, environment)
    validate_spec(spec)
    return JobDocument(spec, metadata)


def pair_words(words: Iterable[str], where: str) -> Iterator[tuple[str, str]]:
    """Words of a line as flags and values: ``--gpus=2``, ``--gpus 2``, ``-g2``, ``-g 2``.

    Raises:
        SpecError: a word that is no flag, or a flag without its value.
    """
    left = iter(words)
    for word in left:
        name, equals, text = word.partition("=")
        if not word.startswith("--") and len(word) > 2:
            name, equals, text = word[:2], "=", word[2:]
        if not word.startswith("-"):
            raise fault(where, "a flag such as --gpus", word)
        if name not in BY_NAME:
            raise unknown(where, name, (one.names[0] for one in FLAGS))
        if BY_NAME[name].switch:
            yield name, ""
            continue
        value = text if equals else next(left, None)
        if value is None:
            raise SpecError(f"{where}: {name} needs a value: {BY_NAME[name].metavar}.")
        yield name, value
