"""What a spec may hold: names, labels, counts, and what the kernel takes at exec.

Called after every way of making a spec (document, directives, flags, Python), so that a job that
was accepted can be started. Checks what is true of the spec alone; whether a machine could ever
hold it is decided by ``core.feasibility``.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Iterable, Mapping

from mlsched.errors import SpecError
from mlsched.model.resources import tasks_per_group
from mlsched.model.specs import PRIORITY_MAX, ArraySpec, JobSpec, Metadata, Toleration
from mlsched.specs.problems import fault, key_path
from mlsched.units import MILLI, SIZE_BYTES_MAX, SPAN_S_MAX

NAME_CHARACTERS_MAX = 63
ARGUMENT_BYTES_MAX = 131_071
"""Of one argument and of one ``NAME=value``: the kernel's MAX_ARG_STRLEN is 128 KiB with the NUL.

Source: execve(2), "Limits on size of arguments and environment".
"""
EXEC_BYTES_MAX = 512 * 1024
"""Of the whole argument list and environment of a spec.

Linux gives both a quarter of the stack limit, 2 MiB of the usual 8; a quarter of that leaves the
rest to the environment of the user who submits and to the variables that mlsched adds.
"""
SCRIPT_BYTES_MAX = 256 * 1024
ARRAY_SIZE_MAX = 10_000
ARRAY_INDEX_MAX = 4_000_000
"""Slurm's own bound on MaxArraySize. Source: slurm.conf(5)."""
AFTER_MAX = 1_000
TOLERATIONS_MAX = 100
ENV_SECRETS_MAX = 100
ANNOTATIONS_BYTES_MAX = 256 * 1024
"""Kubernetes' bound on all annotations of an object together."""

INTEGER_BOUNDS: dict[str, tuple[int, int]] = {
    "nodes": (1, 10_000),
    "tasks_per_node": (1, 100_000),
    "tasks": (0, 100_000),
    "milli_cpus_per_task": (1, 100_000_000),
    "milli_cpus_per_gpu": (0, 100_000_000),
    "memory_per_cpu": (0, SIZE_BYTES_MAX),
    "memory_per_gpu": (0, SIZE_BYTES_MAX),
    "gpus_per_node": (0, 1_000),
    "gpus": (0, 1_000_000),
    "gpus_per_task": (0, 1_000),
    "gpu_memory_min_bytes": (0, SIZE_BYTES_MAX),
    "priority": (-PRIORITY_MAX, PRIORITY_MAX),
    "time_limit_seconds": (0, SPAN_S_MAX),
    "grace_seconds": (0, 86_400),
    "retries": (0, 1_000),
}
"""Least and greatest value of the counts of a spec; 0 stands for "not asked"."""

SIGNAL_NAMES = tuple(sorted(one.name.removeprefix("SIG") for one in signal.Signals))
SIGNAL_BEFORE_END_S_MAX = 65_535
"""Slurm's bound on ``--signal=NAME@SECONDS``."""

_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_GPU_MODEL = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.+ |]{0,126}[-A-Za-z0-9_.+])?")
_IMAGE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._:/@+]{0,510}[A-Za-z0-9])?")
_JOB_REFERENCE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.\[\]]{0,99}")
_NAMES_OF_FIELDS = {
    "milli_cpus_per_task": "cpusPerTask",
    "milli_cpus_per_gpu": "cpusPerGpu",
    "gpu_memory_min_bytes": "gpuMemoryMin",
}


def document_name(attribute: str) -> str:
    """What a document calls a field of JobSpec: ``gpus_per_node`` is ``gpusPerNode``."""
    first, *rest = attribute.split("_")
    camel = first + "".join(word.capitalize() for word in rest)
    return _NAMES_OF_FIELDS.get(attribute, camel)


def clean_name(text: str) -> str:
    """A legal name made of any text: ``train_seg`` gives ``train-seg``; empty if none can be."""
    words = re.findall(r"[a-z0-9]+", text[:4096].lower())
    return "-".join(words)[:NAME_CHARACTERS_MAX].rstrip("-")


def check_name(name: str, where: str = "metadata.name") -> None:
    """Refuse a name that is no DNS-1123 label of at most 63 characters.

    Raises:
        SpecError: with the nearest legal name as a hint.
    """
    if _DNS_LABEL.fullmatch(name) is None:
        legal = clean_name(name)
        raise fault(
            where,
            "a name of at most 63 lower-case letters, digits and '-'",
            name,
            f"Such as {legal}." if legal else "Such as train-1.",
        )


def validate_metadata(metadata: Metadata) -> None:
    """Refuse names, labels and annotations that Kubernetes would refuse.

    Raises:
        SpecError: names the field.
    """
    if metadata.name:
        check_name(metadata.name)
    if metadata.namespace:
        check_name(metadata.namespace, "metadata.namespace")
    check_labels(metadata.labels, "metadata.labels")
    size_bytes = 0
    for key, value in metadata.annotations.items():
        _check_label_key(key, "metadata.annotations")
        _check_text(value, key_path("metadata.annotations", key), ANNOTATIONS_BYTES_MAX)
        size_bytes += len(key) + len(value.encode())
    if size_bytes > ANNOTATIONS_BYTES_MAX:
        raise SpecError(f"metadata.annotations: {size_bytes} bytes, at most 256 KiB are allowed.")


def check_labels(labels: Mapping[str, str], where: str) -> None:
    """Refuse labels that are not in Kubernetes' syntax.

    Raises:
        SpecError: names the label.
    """
    for key, value in labels.items():
        _check_label_key(key, where)
        if _LABEL_VALUE.fullmatch(value) is None:
            raise fault(
                key_path(where, key),
                "at most 63 letters, digits, '-', '_' or '.', a letter or digit at both ends",
                value,
            )


def _check_label_key(key: str, where: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if _LABEL_NAME.fullmatch(name) and (not slash or _LABEL_PREFIX.fullmatch(prefix)):
        return
    raise fault(where, "a key such as team or example.org/team", key)


def validate_spec(spec: JobSpec) -> None:
    """Refuse a spec that could not be run as it says, whatever the machine.

    Raises:
        SpecError: names the field, what was found and what is allowed.
    """
    for attribute, (least, greatest) in INTEGER_BOUNDS.items():
        value = getattr(spec, attribute)
        if not least <= value <= greatest:
            scale = MILLI if attribute.startswith("milli_") else 1
            expected = f"a number from {least / scale:.12g} to {greatest // scale}"
            raise fault(f"spec.{document_name(attribute)}", expected, value // scale)
    _check_program(spec)
    check_environment(spec.env)
    total_bytes = sum(len(word.encode()) + 1 for word in spec.command)
    total_bytes += sum(len(f"{name}={value}".encode()) + 1 for name, value in spec.env.items())
    if total_bytes > EXEC_BYTES_MAX:
        raise SpecError(
            f"spec: command and env take {total_bytes} bytes, at most {EXEC_BYTES_MAX} fit.",
            "Put long lists into a file and pass its name.",
        )
    _check_sizes(spec)
    _check_gpus(spec)
    _check_nodes(spec)
    _check_env_secrets(spec)
    _check_order(spec)
    check_labels(spec.labels, "spec.labels")


def _check_program(spec: JobSpec) -> None:
    if not spec.command and not spec.script:
        raise SpecError("spec: there is nothing to run.", "Give command or script.")
    if spec.command and not spec.script and not spec.command[0]:
        raise fault("spec.command[0]", "the name of a program", "")
    for position, word in enumerate(spec.command):
        _check_text(word, f"spec.command[{position}]", ARGUMENT_BYTES_MAX)
    if spec.script:
        check_script(spec.script, "spec.script")
    for attribute in ("workdir", "output"):
        value = getattr(spec, attribute)
        _check_text(value, f"spec.{attribute}", 4095)


def check_script(script: str, where: str) -> None:
    """Refuse a script that the kernel could not start.

    Raises:
        SpecError: no ``#!`` line, DOS line ends, NUL bytes or too large.
    """
    if not script.startswith("#!"):
        raise SpecError(
            f"{where}: the script has no shebang: its first line must begin with '#!'.",
            "Write '#!/bin/bash' as the very first line.",
        )
    if "\r\n" in script:
        line = script[: script.index("\r\n")].count("\n") + 1
        raise SpecError(
            f"{where}: DOS line ends (CR LF), first at line {line}: no shell would run this.",
            "Convert it, for instance with: sed -i 's/\\r$//' FILE",
        )
    _check_text(script, where, SCRIPT_BYTES_MAX)


def check_environment(env: Mapping[str, str], where: str = "spec.env") -> None:
    """Check that exec will take every variable.

    Raises:
        SpecError: a name or a value that it would refuse.
    """
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise fault(where, "a name that is not empty and has no '=' or NUL", name)
        _check_text(f"{name}={value}", key_path(where, name), ARGUMENT_BYTES_MAX)


def _check_text(text: str, where: str, bytes_max: int) -> None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise fault(where, "text that can be written as UTF-8", text) from error
    if size_bytes > bytes_max:
        raise SpecError(
            f"{where}: {size_bytes} bytes, at most {bytes_max} are allowed.",
            "Put it into a file and pass the name of the file.",
        )
    if "\0" in text:
        raise fault(where, "text without NUL", text)


def _check_sizes(spec: JobSpec) -> None:
    memory = spec.memory_per_node
    if isinstance(memory, int) and not 0 <= memory <= SIZE_BYTES_MAX:
        raise fault("spec.memoryPerNode", f"bytes from 0 to {SIZE_BYTES_MAX}, or 'all'", memory)
    fields = ("memory_per_node", "memory_per_cpu", "memory_per_gpu")
    asked = [document_name(field) for field in fields if getattr(spec, field)]
    if len(asked) > 1:
        raise SpecError(f"spec: {' and '.join(asked)} exclude each other.", "Keep one of them.")
    if 0 < spec.tasks < spec.nodes:
        raise SpecError(
            f"spec.tasks: {spec.tasks} tasks cannot fill {spec.nodes} nodes.", "Lower spec.nodes."
        )
    room = spec.nodes * spec.tasks_per_node
    if spec.tasks_per_node > 1 and spec.tasks > room:
        raise SpecError(
            f"spec.tasks: {spec.tasks} tasks, but nodes x tasksPerNode is {room}.",
            "Raise spec.nodes, or leave one of the two out.",
        )


def _check_gpus(spec: JobSpec) -> None:
    if spec.mig and not spec.gpu_model:
        raise SpecError("spec.mig: needs the profile in spec.gpuModel.", "Such as 1g.10gb.")
    for attribute in ("gpu_model", "constraint"):
        value = getattr(spec, attribute)
        if value and _GPU_MODEL.fullmatch(value) is None:
            where = f"spec.{document_name(attribute)}"
            raise fault(where, "GPU models such as H100 or a100|h100", value)
    per_node = spec.gpus_per_node * spec.nodes
    tasks = spec.tasks or spec.nodes * spec.tasks_per_node
    per_task = spec.gpus_per_task * tasks
    for field, total in (("gpusPerNode x nodes", per_node), ("gpusPerTask x tasks", per_task)):
        if spec.gpus and total and spec.gpus != total:
            raise SpecError(f"spec.gpus: {spec.gpus}, but {field} is {total}.", "Leave one out.")
    if spec.gpus_per_node and spec.gpus_per_task * tasks_per_group(spec) > spec.gpus_per_node:
        raise SpecError(
            f"spec.gpusPerTask: {tasks_per_group(spec)} tasks of {spec.gpus_per_task} GPUs do not "
            f"share gpusPerNode: {spec.gpus_per_node}.",
            "Leave one of the two out.",
        )


def _check_env_secrets(spec: JobSpec) -> None:
    if len(spec.env_secrets) > ENV_SECRETS_MAX:
        raise fault("spec.envSecrets", f"at most {ENV_SECRETS_MAX} secrets", list(spec.env_secrets))
    for position, name in enumerate(spec.env_secrets):
        if _DNS_SUBDOMAIN.fullmatch(name) is None:
            where = f"spec.envSecrets[{position}]"
            raise fault(where, "the name of a Secret such as s3-keys", name)


def _check_nodes(spec: JobSpec) -> None:
    """What says where it may run: image, layer, labels and taints of nodes."""
    if spec.image and _IMAGE.fullmatch(spec.image) is None:
        expected = "a container image such as registry.example.org/team/train:1.2"
        raise fault("spec.image", expected, spec.image)
    if spec.layer and _DNS_LABEL.fullmatch(spec.layer) is None:
        raise fault("spec.layer", "the name of a layer such as gpu or data", spec.layer)
    check_labels(spec.node_selector, "spec.nodeSelector")
    if len(spec.tolerations) > TOLERATIONS_MAX:
        expected = f"at most {TOLERATIONS_MAX} tolerations"
        raise fault("spec.tolerations", expected, list(spec.tolerations))
    for position, one in enumerate(spec.tolerations):
        _check_toleration(one, f"spec.tolerations[{position}]")


def _check_toleration(one: Toleration, where: str) -> None:
    if one.key:
        _check_label_key(one.key, f"{where}.key")
    elif one.operator != "Exists":
        raise fault(f"{where}.operator", "Exists where there is no key", one.operator)
    if one.value and one.operator == "Exists":
        raise fault(f"{where}.value", "no value with the operator Exists", one.value)
    if _LABEL_VALUE.fullmatch(one.value) is None:
        raise fault(f"{where}.value", "at most 63 letters, digits, '-', '_' or '.'", one.value)


def _check_order(spec: JobSpec) -> None:
    _check_queues(spec)
    if spec.signal is not None:
        if spec.signal.name not in SIGNAL_NAMES:
            raise fault("spec.signal.name", "a signal such as TERM or USR2", spec.signal.name)
        if not 0 <= spec.signal.before_end_seconds <= SIGNAL_BEFORE_END_S_MAX:
            expected = f"seconds from 0 to {SIGNAL_BEFORE_END_S_MAX}"
            raise fault("spec.signal.beforeEndSeconds", expected, spec.signal.before_end_seconds)
    if spec.array is not None:
        check_array(spec.array)
    if len(spec.after) > AFTER_MAX:
        raise fault("spec.after", f"at most {AFTER_MAX} jobs", list(spec.after))
    for position, dependency in enumerate(spec.after):
        if _JOB_REFERENCE.fullmatch(dependency.job) is None:
            raise fault(f"spec.after[{position}]", "the name or id of a job", dependency.job)


def _check_queues(spec: JobSpec) -> None:
    for position, queue in enumerate((spec.queue, *spec.queues)):
        if not queue or _LABEL_VALUE.fullmatch(queue) is None:
            where = "spec.queue" if position == 0 else f"spec.queues[{position - 1}]"
            raise fault(where, "a name of at most 63 letters, digits, '-', '_' or '.'", queue)
    if len({spec.queue, *spec.queues}) != 1 + len(spec.queues):
        raise SpecError("spec.queues: a queue is named twice.", "Name each queue once.")


def check_array(array: ArraySpec) -> None:
    """Refuse an array that is empty, too large, or not ascending.

    Raises:
        SpecError: says which.
    """
    indices = array.indices
    if not 0 < len(indices) <= ARRAY_SIZE_MAX:
        raise fault("spec.array", f"1 to {ARRAY_SIZE_MAX} elements", len(indices))
    if indices[0] < 0 or indices[-1] > ARRAY_INDEX_MAX:
        expected = f"indices from 0 to {ARRAY_INDEX_MAX}"
        raise fault("spec.array", expected, indices[0] if indices[0] < 0 else indices[-1])
    if not _is_ascending(indices):
        raise SpecError("spec.array: indices must ascend, each once.")
    if not 0 <= array.max_parallel <= ARRAY_SIZE_MAX:
        expected = f"a number from 0 (no bound) to {ARRAY_SIZE_MAX}"
        raise fault("spec.array.maxParallel", expected, array.max_parallel)


def _is_ascending(indices: Iterable[int]) -> bool:
    return all(one < two for one, two in itertools.pairwise(indices))
