"""Batch scripts of Slurm: what their ``#SBATCH`` lines ask for, as a JobSpec.

Slurm's own rules hold: of two equal options the later one, ``--mem`` without a unit is MiB, a
bare time is minutes. Options that mlsched lacks are collected, never dropped in silence.

Source: sbatch(1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from mlsched.errors import SpecError
from mlsched.model.specs import PRIORITIES, PRIORITY_MAX, Dependency, JobSpec, Metadata
from mlsched.specs import values
from mlsched.specs.directives import SBATCH, find_directives
from mlsched.specs.documents import JOB_NAME_ANNOTATION
from mlsched.specs.flags import MIG_PROFILE
from mlsched.specs.limits import check_labels, check_script, clean_name
from mlsched.specs.problems import fault, show
from mlsched.specs.sbatch_options import Option, read_options
from mlsched.units import KIB, MIB, parse_span_s

ACCOUNT_LABEL = "mlsched.io/account"

_CONDITIONS: dict[str, Literal["ok", "any", "fail"]] = {
    "afterok": "ok",
    "afterany": "any",
    "afternotok": "fail",
}
_MEMORY = re.compile(r"(\d{1,15})\s*([kKmMgGtT]?)[bB]?")
_TIME = re.compile(r"\d+(?::\d+){0,2}|\d+-\d+(?::\d+){0,2}")
_GPUS = re.compile(r"(\d{1,6})|([A-Za-z0-9][\w.+-]*?)|([A-Za-z0-9][\w.+-]*)[:=](\d{1,6})")
_SITE_PROFILE = re.compile(r".*[_.-](\d+g\.\d+gb)", re.IGNORECASE)


class SbatchRequest(Struct, frozen=True):
    """What the directives of a batch script ask for."""

    spec: JobSpec
    metadata: Metadata
    named: frozenset[str]
    """Fields of JobSpec that the script names, at their defaults too."""
    unsupported: tuple[str, ...]
    """Options that mlsched lacks, in their order."""
    notes: tuple[str, ...]
    """What else is done otherwise than the script says."""


def read_sbatch(script: str) -> SbatchRequest:
    """The job that a batch script asks for; its text is kept and is run once.

    Raises:
        SpecError: no ``#!`` line, DOS line ends, a value that Slurm would refuse too, or what
            would change the meaning if it were left out (hetjob, some dependencies).
    """
    check_script(script, "script")
    reading = _Reading()
    for option in _latest(script).values():
        reader = _READERS.get(option.name)
        if reader is not None:
            reader(reading, option)
        elif option.name.startswith("-"):
            reading.unsupported.append(_shown(option))
        else:
            found = show(option.name)
            reading.notes.append(f"#SBATCH line {option.line}: {found} is no option: ignored")
    reading.derive()
    fields = reading.fields
    spec = JobSpec(script=script, launch="once", **fields)
    return SbatchRequest(
        spec,
        Metadata(name=reading.name, annotations=reading.annotations),
        frozenset(fields),
        tuple(reading.unsupported),
        tuple(reading.notes),
    )


def _latest(script: str) -> dict[str, Option]:
    """Of equal options the last; those that are known in the order of their last use."""
    latest: dict[str, Option] = {}
    for directive in find_directives(script, SBATCH):
        for option in read_options(directive.words, directive.line):
            if option.name in _READERS:
                latest.pop(option.name, None)
            latest[option.name] = option
    error, output = latest.get("--error"), latest.get("--output")
    if error and output and error.value == output.value:
        del latest["--error"]
    return latest


def _shown(option: Option) -> str:
    return (
        option.shown
        if option.shown.isprintable() and len(option.shown) < 100
        else show(option.shown)
    )


class _Reading:
    """Collects what the options say."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.name = ""
        self.annotations: dict[str, str] = {}
        self.unsupported: list[str] = []
        self.notes: list[str] = []

    def derive(self) -> None:
        """Fill in what Slurm works out: tasks of GPUs, nodes of tasks or GPUs."""
        found = self.fields
        tasks = found.get("tasks", 0)
        gpus, per_task = found.get("gpus", 0), found.get("gpus_per_task", 0)
        if gpus and per_task and not tasks and gpus % per_task == 0 and gpus > per_task:
            tasks = found["tasks"] = gpus // per_task
        if "nodes" not in found:
            nodes = self._least_nodes(tasks, gpus)
            found |= {"nodes": nodes} if nodes > 1 else {}
        elif 0 < tasks < found["nodes"]:
            self.notes.append(f"{tasks} tasks cannot fill {found['nodes']} nodes: nodes is {tasks}")
            found["nodes"] = tasks

    def _least_nodes(self, tasks: int, gpus: int) -> int:
        tasks_per_node = self.fields.get("tasks_per_node") or tasks or 1
        gpus_per_node = self.fields.get("gpus_per_node") or gpus or 1
        return max(-(-tasks // tasks_per_node), -(-gpus // gpus_per_node))


Reader = Callable[[_Reading, Option], None]


def _count(field: str, *, scale: int = 1) -> Reader:
    def read(reading: _Reading, option: Option) -> None:
        reading.fields[field] = _number(option, option.value) * scale

    return read


def _number(option: Option, text: str) -> int:
    if re.fullmatch(r"\d{1,9}", text.strip()) is None:
        raise fault(option.name, "a whole number", option.value, f"#SBATCH line {option.line}.")
    return int(text)


def _text(field: str) -> Reader:
    def read(reading: _Reading, option: Option) -> None:
        if not option.value:
            raise fault(option.name, "a value", option.value, f"#SBATCH line {option.line}.")
        reading.fields[field] = option.value

    return read


def _ignored_if(*harmless: str) -> Reader:
    """An option of which only some values change nothing here; others are unsupported."""

    def read(reading: _Reading, option: Option) -> None:
        if option.value.strip().lower() not in harmless:
            reading.unsupported.append(_shown(option))

    return read


def _read_name(reading: _Reading, option: Option) -> None:
    reading.name = clean_name(option.value)
    reading.annotations.pop(JOB_NAME_ANNOTATION, None)
    if reading.name != option.value:
        reading.annotations[JOB_NAME_ANNOTATION] = option.value[:1024]


def _read_nodes(reading: _Reading, option: Option) -> None:
    least, dash, most = option.value.partition("-")
    reading.fields["nodes"] = _number(option, least)
    if dash and _number(option, most) != reading.fields["nodes"]:
        reading.notes.append(f"--nodes={least}-{most}: {least} nodes are taken")


def _memory(field: str) -> Reader:
    def read(reading: _Reading, option: Option) -> None:
        found = _MEMORY.fullmatch(option.value.strip())
        if found is None:
            expected = "memory such as 64G or 30000 (MiB)"
            raise fault(option.name, expected, option.value, f"#SBATCH line {option.line}.")
        power = "kmgt".index(found[2].lower()) if found[2] else 1
        size_bytes = int(found[1]) * KIB ** (power + 1)
        if size_bytes == 0:
            reading.fields["memory_per_node"] = "all"
        else:
            reading.fields[field] = -(-size_bytes // MIB) * MIB

    return read


def _read_time(reading: _Reading, option: Option) -> None:
    text = option.value.strip()
    if text.upper() in ("UNLIMITED", "INFINITE", "-1") or re.fullmatch(r"[0:-]*0", text):
        reading.fields["time_limit_seconds"] = 0
        return
    if _TIME.fullmatch(text) is None:
        hint = "Slurm reads minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes]."
        raise fault(f"{option.name} (#SBATCH line {option.line})", "a time", text, hint)
    reading.fields["time_limit_seconds"] = parse_span_s(text, what=option.name)


def _gpus(field: str) -> Reader:
    def read(reading: _Reading, option: Option) -> None:
        _add_gpus(reading, field, option, option.value.split(","))

    return read


def _read_gres(reading: _Reading, option: Option) -> None:
    gpus = []
    for part in option.value.split(","):
        resource = part.strip().removeprefix("gres/").removeprefix("gres:")
        if resource.lower() in ("", "none"):
            continue
        kind, _, rest = resource.partition(":") if ":" in resource else resource.partition("=")
        if kind == "gpu":
            gpus.append(rest or "1")
        else:
            reading.unsupported.append(f"--gres={kind}" if kind.isalnum() else "--gres")
    if gpus:
        _add_gpus(reading, "gpus_per_node", option, gpus)


def _add_gpus(reading: _Reading, field: str, option: Option, parts: list[str]) -> None:
    found = reading.fields
    count, kinds = 0, set()
    for part in parts:
        parsed = _GPUS.fullmatch(part.strip())
        if parsed is None:
            expected = "a number of GPUs or TYPE:NUMBER"
            raise fault(option.name, expected, option.value, f"#SBATCH line {option.line}.")
        kinds |= {parsed[2] or parsed[3]} - {None}
        count += int(parsed[1] or parsed[4] or 1)
    if found.get(field, count) != count:
        raise fault(option.name, f"{found[field]} as another option says", count)
    found[field] = count
    if kinds:
        _set_model(reading, option, kinds)


def _set_model(reading: _Reading, option: Option, kinds: set[str]) -> None:
    models = {_profile_of(kind) or kind for kind in kinds}
    models |= {reading.fields["gpu_model"]} if "gpu_model" in reading.fields else set()
    if len(models) > 1:
        found = ", ".join(sorted(models))
        raise fault(option.name, "GPUs of one type", found, "Submit a job for each type.")
    reading.fields["gpu_model"] = models.pop()
    if any(_profile_of(kind) for kind in kinds):
        reading.fields["mig"] = True


def _profile_of(kind: str) -> str:
    """The MIG profile that a type names: ``3g.20gb`` of a site's ``a100_3g.20gb``; else empty."""
    if MIG_PROFILE.fullmatch(kind):
        return kind
    site = _SITE_PROFILE.fullmatch(kind)
    return site[1] if site else ""


def _read_constraint(reading: _Reading, option: Option) -> None:
    if re.fullmatch(r"[\w.+-]+(?:\|[\w.+-]+)*", option.value):
        reading.fields["constraint"] = option.value
    else:
        reading.unsupported.append(_shown(option))


def _read_partition(reading: _Reading, option: Option) -> None:
    first, *others = dict.fromkeys(part.strip() for part in option.value.split(","))
    reading.fields |= {"queue": first} | ({"queues": tuple(others)} if others else {})


def _read_qos(reading: _Reading, option: Option) -> None:
    if option.value.lower() in PRIORITIES:
        reading.fields.setdefault("priority", PRIORITIES[option.value.lower()])
    else:
        reading.unsupported.append(_shown(option))


def _read_priority(reading: _Reading, option: Option) -> None:
    if option.value.isdecimal() and len(option.value) < 10 and int(option.value) <= PRIORITY_MAX:
        reading.fields["priority"] = int(option.value)
    else:
        reading.unsupported.append(_shown(option))


def _read_account(reading: _Reading, option: Option) -> None:
    try:
        check_labels({ACCOUNT_LABEL: option.value}, option.name)
    except SpecError:
        reading.unsupported.append(_shown(option))
    else:
        reading.fields["labels"] = {ACCOUNT_LABEL: option.value}


def _read_array(reading: _Reading, option: Option) -> None:
    reading.fields["array"] = values.parse_array(option.value, option.name)


def _read_dependency(reading: _Reading, option: Option) -> None:
    after = []
    for part in option.value.split(","):
        kind, *jobs = part.strip().split(":")
        if kind not in _CONDITIONS or not jobs or "?" in part or "+" in part:
            hint = "Leaving it out would start the job too early; say the order with --after."
            expected = "afterok:ID, afterany:ID or afternotok:ID, joined by commas"
            raise fault(option.name, expected, option.value, hint)
        after += [Dependency(job, _CONDITIONS[kind]) for job in jobs]
    reading.fields["after"] = tuple(after)


def _read_signal(reading: _Reading, option: Option) -> None:
    text = option.value.strip()
    reading.fields["signal"] = values.read_signal(re.sub(r"^R?(B:)|^R:", r"\1", text), option.name)


def _read_requeue(reading: _Reading, option: Option) -> None:
    reading.fields["requeue"] = option.name == "--requeue"


def _read_export(reading: _Reading, option: Option) -> None:
    parts = [part for part in option.value.split(",") if part]
    env = dict(part.split("=", 1) for part in parts if "=" in part)
    reading.fields |= {"env": env} if env else {}
    if "ALL" not in (part.upper() for part in parts):
        reading.unsupported.append(
            "--export=NONE" if option.value.upper() in ("NONE", "NIL") else "--export without ALL"
        )


_READERS: dict[str, Reader] = {
    "--account": _read_account,
    "--array": _read_array,
    "--begin": _ignored_if("now"),
    "--chdir": _text("workdir"),
    "--constraint": _read_constraint,
    "--cpus-per-gpu": _count("milli_cpus_per_gpu", scale=1000),
    "--cpus-per-task": _count("milli_cpus_per_task", scale=1000),
    "--dependency": _read_dependency,
    "--export": _read_export,
    "--gpus": _gpus("gpus"),
    "--gpus-per-node": _gpus("gpus_per_node"),
    "--gpus-per-task": _gpus("gpus_per_task"),
    "--gres": _read_gres,
    "--input": _ignored_if("/dev/null", "none"),
    "--job-name": _read_name,
    "--mem": _memory("memory_per_node"),
    "--mem-per-cpu": _memory("memory_per_cpu"),
    "--mem-per-gpu": _memory("memory_per_gpu"),
    "--no-requeue": _read_requeue,
    "--nodes": _read_nodes,
    "--ntasks": _count("tasks"),
    "--ntasks-per-node": _count("tasks_per_node"),
    "--open-mode": _ignored_if("append", "a"),
    "--output": _text("output"),
    "--partition": _read_partition,
    "--priority": _read_priority,
    "--qos": _read_qos,
    "--requeue": _read_requeue,
    "--signal": _read_signal,
    "--time": _read_time,
}
"""Every option that mlsched knows; the guide's table is tested against it."""

SUPPORTED_OPTIONS = tuple(_READERS)
