"""Readers of single values: from what a document or a flag holds to what a JobSpec holds.

A reader takes the value found and its path (for errors) and gives the value of the field. Bounds
of counts are checked later, for all ways of making a spec, by `limits.validate_spec`.
"""

from __future__ import annotations

import itertools
import re
import shlex
import signal
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from mlsched.errors import SpecError
from mlsched.model.specs import (
    ALL_MEMORY,
    PRIORITIES,
    ArraySpec,
    Dependency,
    StopSignal,
    Toleration,
)
from mlsched.specs.limits import (
    ARRAY_INDEX_MAX,
    ARRAY_SIZE_MAX,
    SIGNAL_NAMES,
    check_array,
)
from mlsched.specs.problems import fault, key_path, unknown
from mlsched.units import MILLI, parse_bytes, parse_milli_cpus, parse_span_s

Condition: TypeAlias = Literal["ok", "any", "fail"]

_SHELL_OPERATORS = frozenset("|&;<>()$`*\n")
_ARRAY_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")
_MAKERS_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([gGtT])[bB]?")
_SIGNAL = re.compile(r"(B:)?(?:SIG)?([A-Za-z0-9+]+)(?:@(\d{1,6}))?")
_DEPENDENCY = re.compile(r"([^:]+)(?::(\w+))?")


def read_text(found: object, where: str) -> str:
    """Text; a number or true/false needs quotes in the document."""
    if not isinstance(found, str):
        raise fault(where, "text", found, _quote_hint(found))
    return found


def _quote_hint(found: object) -> str:
    return f"Quote it: '{found}'." if isinstance(found, (int, float)) else ""


def read_integer(found: object, where: str) -> int:
    """A whole number, not text and not true or false."""
    if isinstance(found, bool) or not isinstance(found, int):
        raise fault(where, "a whole number", found, "Without quotes and fraction, such as 4.")
    return found


def read_flag(found: object, where: str) -> bool:
    """True or false."""
    if not isinstance(found, bool):
        raise fault(where, "true or false", found)
    return found


def read_list(found: object, where: str) -> list[object]:
    """A list."""
    if not isinstance(found, (list, tuple)):
        raise fault(where, "a list", found, "Write it in brackets: [...]")
    return list(found)


def read_object(found: object, where: str) -> dict[str, object]:
    """An object: keys and values."""
    if not isinstance(found, dict):
        raise fault(where, "an object of keys and values", found)
    return found


def read_texts(found: object, where: str) -> tuple[str, ...]:
    """A list of texts."""
    items = read_list(found, where)
    return tuple(read_text(item, f"{where}[{at}]") for at, item in enumerate(items))


def read_text_map(found: object, where: str) -> dict[str, str]:
    """An object whose values are all text: env, labels, annotations."""
    items = read_object(found, where)
    return {key: read_text(value, key_path(where, key)) for key, value in items.items()}


def read_command(found: object, where: str) -> tuple[str, ...]:
    """An argument vector: a list as it is, text split as a shell splits it, but no shell runs.

    Raises:
        SpecError: also for text that only means what it says in a shell (pipes, variables, ...).
    """
    if not isinstance(found, str):
        return read_texts(found, where)
    operator = _find_operator(found)
    if operator:
        raise fault(
            where,
            f"a command without shell syntax such as {operator!r}",
            found,
            "Quote it, write [sh, -c, '...'], or put the lines into spec.script.",
        )
    try:
        return tuple(shlex.split(found))
    except ValueError as error:
        raise fault(where, "quotes that are closed", found) from error


def _find_operator(text: str) -> str:
    """The first character that a shell would act on, outside of quotes that keep it from that."""
    quote, skip = "", False
    for one in text.strip():
        if skip:
            skip = False
        elif one == "\\" and quote != "'":
            skip = True
        elif quote:
            if one == quote:
                quote = ""
            elif quote == '"' and one in "$`":
                return one
        elif one in "'\"":
            quote = one
        elif one in _SHELL_OPERATORS:
            return one
    return ""


def read_cpus(found: object, where: str) -> int:
    """Milli-CPU from ``2``, ``0.5``, ``"0.5"`` or ``"500m"``."""
    if isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise fault(where, "a number such as 4, 0.5 or 500m", found)
    return parse_milli_cpus(found, what=where)


def write_cpus(milli_cpus: int) -> int | str:
    """Milli-CPU as a whole number of CPUs, else as text such as ``500m``."""
    return f"{milli_cpus}m" if milli_cpus % MILLI else milli_cpus // MILLI


def read_bytes(found: object, where: str) -> int:
    """Bytes from a number of bytes or text such as ``64Gi``."""
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise fault(where, "a size such as 64Gi, or bytes", found)
    return parse_bytes(found, what=where)


def read_gpu_memory(found: object, where: str) -> int:
    """Bytes of GPU memory: ``80GB`` as makers count (10**9), ``80Gi`` as computers do (2**30).

    A GPU that is sold as 80 GB reports 79.6 GiB, so reading GB as GiB would find none.
    """
    made = _MAKERS_SIZE.fullmatch(found.strip()) if isinstance(found, str) else None
    if made is None:
        return read_bytes(found, where)
    return int(Decimal(made[1]) * (10**12 if made[2] in "tT" else 10**9))


def read_memory(found: object, where: str) -> int | Literal["all"]:
    """Bytes, or ``all`` of a node."""
    return "all" if found == ALL_MEMORY else read_bytes(found, where)


def read_span(found: object, where: str) -> int:
    """Seconds from text with units; a bare number is refused: it could be minutes or seconds."""
    if not isinstance(found, str) or found.strip().isdecimal():
        hint = "Write 90s or 90m; timeLimitSeconds takes a number of seconds."
        raise fault(where, "a time with a unit such as 90s, 2h or 1-00:00:00", found, hint)
    return parse_span_s(found, what=where, hint="timeLimitSeconds takes a number of seconds.")


def read_priority(found: object, where: str) -> int:
    """A number, or low, normal or high."""
    if isinstance(found, str):
        if found in PRIORITIES:
            return PRIORITIES[found]
        raise fault(where, "a whole number, low, normal or high", found)
    return read_integer(found, where)


def read_signal(found: object, where: str) -> StopSignal:
    """An early notice: an object, or Slurm's text ``[B:]NAME[@SECONDS]``."""
    if isinstance(found, str):
        parsed = _SIGNAL.fullmatch(found.strip())
        if parsed is None:
            raise fault(where, "a signal such as USR2 or B:USR1@120", found)
        name = signal_name(parsed[2], where)
        before_s = int(parsed[3]) if parsed[3] else StopSignal().before_end_seconds
        return StopSignal(name, before_s, "shell" if parsed[1] else "steps")
    fields = read_object(found, where)
    _refuse_unknown(fields, ("name", "beforeEndSeconds", "to"), where)
    to = fields.get("to", "steps")
    if to not in ("steps", "shell"):
        raise fault(f"{where}.to", "steps or shell", to)
    before_end = fields.get("beforeEndSeconds", StopSignal().before_end_seconds)
    return StopSignal(
        signal_name(read_text(fields.get("name", "TERM"), f"{where}.name"), f"{where}.name"),
        read_integer(before_end, f"{where}.beforeEndSeconds"),
        "shell" if to == "shell" else "steps",
    )


def signal_name(text: str, where: str) -> str:
    """``USR1`` from ``USR1``, ``SIGUSR1`` or ``usr1``, or from its number."""
    if text.isdecimal():
        numbers = {int(one): one.name for one in signal.Signals}
        text = numbers.get(int(text[:6]), text)
    name = text.upper().removeprefix("SIG")
    if name not in SIGNAL_NAMES:
        raise fault(where, "a signal such as TERM or USR2", text)
    return name


def _refuse_unknown(fields: dict[str, object], allowed: tuple[str, ...], where: str) -> None:
    for key in fields:
        if key not in allowed:
            raise unknown(where, key, allowed)


def read_array(found: object, where: str) -> ArraySpec:
    """An array: Slurm's text ``0-9%4``, or an object of first, last, step or of indices."""
    if isinstance(found, str):
        return parse_array(found, where)
    fields = read_object(found, where)
    allowed = ("first", "last", "step", "count", "indices", "maxParallel")
    _refuse_unknown(fields, allowed, where)
    numbers: dict[str, int] = {
        key: read_integer(fields[key], f"{where}.{key}") for key in fields if key != "indices"
    }
    if "indices" in fields:
        if numbers.keys() - {"maxParallel", "count"}:
            raise SpecError(f"{where}: give either indices or first and last, not both.")
        items = read_list(fields["indices"], f"{where}.indices")
        listed = [read_integer(item, f"{where}.indices[{at}]") for at, item in enumerate(items)]
        indices = tuple(sorted(set(listed)))
    else:
        indices = _range_of(numbers, where)
    if "count" in numbers and numbers["count"] != len(indices):
        raise fault(f"{where}.count", f"{len(indices)}, as the indices say", numbers["count"])
    array = ArraySpec(indices, numbers.get("maxParallel", 0))
    check_array(array)
    return array


def _range_of(numbers: dict[str, int], where: str) -> tuple[int, ...]:
    first, step = numbers.get("first", 0), numbers.get("step", 1)
    if "last" not in numbers and "count" not in numbers:
        raise SpecError(f"{where}: give last or count, or indices.", "Such as {last: 9}.")
    if step < 1:
        raise fault(f"{where}.step", "a number above 0", step)
    last = numbers.get("last", first + (numbers.get("count", 1) - 1) * step)
    return _expand(first, last, step, where)


def _expand(first: int, last: int, step: int, where: str) -> tuple[int, ...]:
    if not 0 <= first <= last <= ARRAY_INDEX_MAX:
        expected = f"indices from 0 to {ARRAY_INDEX_MAX}, the first not above the last"
        raise fault(where, expected, f"{first}-{last}")
    size = (last - first) // step + 1
    if size > ARRAY_SIZE_MAX:
        raise fault(where, f"1 to {ARRAY_SIZE_MAX} elements", size)
    return tuple(range(first, last + 1, step))


def parse_array(text: str, where: str) -> ArraySpec:
    """``1,3,5-9:2%4``: numbers, ranges with a step, and how many may run at once.

    Source: sbatch(1), ``--array``.
    """
    body, percent, bound = text.strip().partition("%")
    indices: list[int] = []
    for part in body.split(","):
        parsed = _ARRAY_PART.fullmatch(part.strip())
        if parsed is None or (parsed[3] is not None and int(parsed[3]) == 0):
            raise fault(where, "an array such as 0-9, 0-99:10%4 or 1,3,5", text)
        first = int(parsed[1])
        last = int(parsed[2]) if parsed[2] else first
        indices.extend(_expand(first, last, int(parsed[3] or 1), where))
        if len(indices) > ARRAY_SIZE_MAX:
            raise fault(where, f"1 to {ARRAY_SIZE_MAX} elements", len(indices))
    if percent and not re.fullmatch(r"[1-9]\d{0,5}", bound):
        raise fault(where, "a number above 0 behind %", text)
    array = ArraySpec(tuple(sorted(set(indices))), int(bound or 0))
    check_array(array)
    return array


def write_array(array: ArraySpec) -> dict[str, Any]:
    """The object for a document: first, last, count of a range; indices of a list.

    Four or more indices at one distance are a range with a step.
    """
    indices = array.indices
    steps = {two - one for one, two in itertools.pairwise(indices)}
    step = min(steps, default=1)
    if len(steps) <= 1 and (step == 1 or len(indices) > 3):
        written: dict[str, Any] = {"first": indices[0], "last": indices[-1]}
        written |= {"step": step} if step > 1 else {}
        written["count"] = len(indices)
    else:
        written = {"indices": list(indices)}
    return written | ({"maxParallel": array.max_parallel} if array.max_parallel else {})


def read_dependency(found: object, where: str) -> Dependency:
    """A dependency: an object, or text ``JOB[:ok|any|fail]``."""
    if isinstance(found, str):
        parsed = _DEPENDENCY.fullmatch(found.strip())
        if parsed is None:
            raise fault(where, "JOB, JOB:ok, JOB:any or JOB:fail", found)
        return Dependency(parsed[1], _condition(parsed[2] or "ok", where))
    fields = read_object(found, where)
    _refuse_unknown(fields, ("job", "condition"), where)
    job = read_text(fields.get("job", ""), f"{where}.job")
    return Dependency(job, _condition(fields.get("condition", "ok"), f"{where}.condition"))


def _condition(found: object, where: str) -> Condition:
    if found not in ("ok", "any", "fail"):
        raise fault(where, "ok, any or fail", found)
    return found


def read_dependencies(found: object, where: str) -> tuple[Dependency, ...]:
    """A list of dependencies."""
    items = read_list(found, where)
    return tuple(read_dependency(item, f"{where}[{at}]") for at, item in enumerate(items))


def read_tolerations(found: object, where: str) -> tuple[Toleration, ...]:
    """A list of tolerations: objects as Kubernetes has them."""
    items = read_list(found, where)
    return tuple(_read_toleration(item, f"{where}[{at}]") for at, item in enumerate(items))


def _read_toleration(found: object, where: str) -> Toleration:
    fields = read_object(found, where)
    _refuse_unknown(fields, ("key", "operator", "value", "effect"), where)
    texts = {name: read_text(value, f"{where}.{name}") for name, value in fields.items()}
    operator, effect = texts.get("operator", "Equal"), texts.get("effect", "")
    if operator not in ("Exists", "Equal"):
        raise fault(f"{where}.operator", "Exists or Equal", operator)
    if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise fault(f"{where}.effect", "NoSchedule, PreferNoSchedule or NoExecute", effect)
    return Toleration(
        texts.get("key", ""),
        "Exists" if operator == "Exists" else "Equal",
        texts.get("value", ""),
        effect,  # type: ignore[arg-type]
    )
