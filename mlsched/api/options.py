"""The keywords of ``ml.submit`` that describe the job, as the flags of the command line.

One meaning everywhere: ``gpus="H100:2"`` is ``--gpus H100:2``. Python's own kinds of value are
taken too: a timedelta, a range, a mapping, a `Job` to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

from mlsched.errors import SpecError
from mlsched.specs.problems import fault

Pair = tuple[str, str]


class Option(Enum):
    """The options of a job; the value is the flag of the command line."""

    GPUS = "--gpus"
    CPUS = "--cpus"
    MEMORY = "--memory"
    NODES = "--nodes"
    TASKS_PER_NODE = "--tasks-per-node"
    TIME = "--time"
    NAME = "--name"
    QUEUE = "--queue"
    PRIORITY = "--priority"
    ENV = "--env"
    WORKDIR = "--workdir"
    RETRIES = "--retries"
    AFTER = "--after"
    ARRAY = "--array"
    SIGNAL = "--signal"
    GRACE = "--grace"
    LABELS = "--label"
    IMAGE = "--image"
    LAYER = "--layer"
    NODE_SELECTOR = "--node-selector"

    @classmethod
    def names(cls) -> list[str]:
        """What the keywords are called."""
        return [option.name.lower() for option in cls]

    @classmethod
    def split(cls, kwargs: Mapping[str, Any]) -> tuple[dict[Option, Any], dict[str, Any]]:
        """Options of the job, and what is left for the function; None stands for not given."""
        names = cls.names()
        options = {
            cls[name.upper()]: value
            for name, value in kwargs.items()
            if name in names and value is not None
        }
        return options, {name: value for name, value in kwargs.items() if name not in names}


def to_flags(options: Mapping[Option, Any]) -> list[Pair]:
    """The flags that say the same.

    Raises:
        SpecError: a value of a kind that the option does not take.
    """
    return [
        (option.value, text)
        for option, value in options.items()
        for text in _WRITERS.get(option, _write_plain)(option.name.lower(), value)
    ]


def _write_plain(where: str, value: Any) -> Iterable[str]:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise fault(where, "text or a number", value)
    yield str(value)


def _write_span(where: str, value: Any) -> Iterable[str]:
    """Numbers are seconds here: only the command line has Slurm's bare minutes."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (str, int, float)):
        raise fault(where, "text such as 2h, a timedelta, or seconds", value)
    yield seconds if isinstance(seconds, str) else f"{_plain(seconds)}s"


def _plain(number: float) -> str:
    """Decimals without an exponent, which no flag takes."""
    return f"{number:.3f}".rstrip("0").rstrip(".")


def _write_path(where: str, value: Any) -> Iterable[str]:
    yield str(value)


def _write_map(where: str, value: Any) -> Iterable[str]:
    if not isinstance(value, Mapping):
        raise fault(where, "a mapping of names to values", value)
    for name, one in value.items():
        yield f"{name}={one}"


def _write_after(where: str, value: Any) -> Iterable[str]:
    several = isinstance(value, Iterable) and not isinstance(value, str)
    for one in value if several else [value]:
        name = one if isinstance(one, str) else getattr(one, "name", None)
        if not isinstance(name, str):
            raise fault(where, "a job, or text such as train-1:ok", one)
        yield name


def _write_array(where: str, value: Any) -> Iterable[str]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise fault(where, "a number of elements above 0", value)
        yield f"0-{value - 1}"
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Iterable):
        yield ",".join(str(index) for index in value)
    else:
        raise SpecError(f"{where}: expected a number of elements, indices, or text such as 0-9%4.")


_WRITERS: dict[Option, Callable[[str, Any], Iterable[str]]] = {
    Option.TIME: _write_span,
    Option.GRACE: _write_span,
    Option.ENV: _write_map,
    Option.LABELS: _write_map,
    Option.NODE_SELECTOR: _write_map,
    Option.AFTER: _write_after,
    Option.ARRAY: _write_array,
    Option.WORKDIR: _write_path,
}
