"""Parameters of functions that make plans: ``--set KEY=VALUE`` as the arguments of a call."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlsched.errors import SpecError

INTERVAL = "interval"
_WORDS = {"true": True, "yes": True, "on": True, "1": True}
_WORDS |= {"false": False, "no": False, "off": False, "0": False}
_KINDS: tuple[type, ...] = (bool, int, float, str)
_BY_NAME = {kind.__name__: kind for kind in _KINDS}

Parameter = inspect.Parameter


def parse_settings(words: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` words as a dict; of one key the last counts.

    Raises:
        SpecError: a word without ``=``, a key that names no parameter, or text that is not UTF-8.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise SpecError(
                f"--set: expected KEY=VALUE, found {word[:60]!r}.",
                "KEY is the name of a parameter of the function: --set rows=100.",
            )
        if key == INTERVAL:
            raise SpecError(
                f"--set: the interval has an option of its own, found {word[:60]!r}.",
                "Write --interval VALUE: it also names the run.",
            )
        found[key] = check_text(value, f"--set {key}")
    return found


def check_text(text: str, what: str) -> str:
    """Text that UTF-8 can hold, since it is kept in the record of the run.

    Raises:
        SpecError: it is not.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"{what}: expected text in UTF-8, found {ascii(text)[:80]}.") from error
    return text


def bind(
    function: Callable[..., Any], name: str, settings: Mapping[str, str], interval: str
) -> dict[str, Any]:
    """The keyword arguments for a function that makes a plan.

    Args:
        function: Takes keyword parameters, ``interval`` among them if it wants it.
        name: For messages.
        settings: Values as text, by parameter.
        interval: As given; empty for none.

    Raises:
        SpecError: an unknown or missing parameter, or a value that its annotation does not take.
    """
    parameters = _parameters(function, name)
    takes_all = any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
    named = {
        key: one
        for key, one in parameters.items()
        if one.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    }
    unknown = [key for key in settings if key not in named and not takes_all]
    if unknown:
        raise SpecError(f"{name} takes no parameter {unknown[0]!r}.", takes_text(name, named))
    given: dict[str, Any] = {
        key: convert(value, kind_of(named[key], function, name), f"--set {key}")
        if key in named
        else value
        for key, value in settings.items()
    }
    if interval and INTERVAL in named:
        given[INTERVAL] = convert(interval, kind_of(named[INTERVAL], function, name), "--interval")
    missing = [key for key, one in named.items() if one.default is Parameter.empty]
    missing = [key for key in missing if key not in given]
    if missing:
        wanted = " ".join(_flag(key) for key in missing)
        raise SpecError(f"{name} needs {wanted}.", takes_text(name, named))
    return given


def _parameters(function: Callable[..., Any], name: str) -> Mapping[str, Parameter]:
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise SpecError(f"{name}: cannot tell which parameters it takes: {error}.") from error
    if any(one.kind is Parameter.POSITIONAL_ONLY for one in found.values()):
        raise SpecError(
            f"{name}: expected parameters that can be given by name, found one that cannot.",
            "Remove the '/' from its signature.",
        )
    return found


def _flag(key: str) -> str:
    return "--interval VALUE" if key == INTERVAL else f"--set {key}=VALUE"


def takes_text(name: str, named: Mapping[str, Parameter]) -> str:
    """What a function takes, for a hint: ``daily takes interval, rows: int = 100``."""
    if not named:
        return f"{name} takes no parameters."
    return f"{name} takes {', '.join(_parameter_text(one) for one in named.values())}."


def _parameter_text(one: Parameter) -> str:
    text = str(one.replace(kind=Parameter.KEYWORD_ONLY))
    return text.replace("'", "") if isinstance(one.annotation, str) else text


def kind_of(one: Parameter, function: Callable[..., Any], name: str) -> type:
    """Which of bool, int, float and str a parameter takes.

    Without an annotation its default tells; without both it takes text.

    Raises:
        SpecError: its annotation is another type.
    """
    if one.annotation is Parameter.empty:
        return next((each for each in _KINDS if type(one.default) is each), str)
    found = _evaluate(one.annotation, function)
    if typing.get_origin(found) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(found) if member is not type(None)]
        found = members[0] if len(members) == 1 else found
    kind = {id(each): each for each in _KINDS}.get(id(found))
    if kind is not None:
        return kind
    raise SpecError(
        f"{name}: the parameter {one.name} is {one.annotation!s}; --set gives text as bool, int, "
        "float or str.",
        "Annotate it with one of these and convert it in the function.",
    )


def _evaluate(annotation: Any, function: Callable[..., Any]) -> Any:
    """An annotation as a type where it can be had; it may name what is imported for checkers."""
    if not isinstance(annotation, str):
        return annotation
    plain = annotation.replace(" ", "").removesuffix("|None").removeprefix("None|")
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    try:
        return typing.get_type_hints(
            types.SimpleNamespace(__annotations__={"it": annotation}),
            getattr(inspect.unwrap(function), "__globals__", {}),
        )["it"]
    except Exception:  # noqa: BLE001 - evaluating runs code of the user's file
        return annotation


def convert(text: str, kind: type, where: str) -> bool | int | float | str:
    """Text as one of bool, int, float and str.

    Raises:
        SpecError: it is none.
    """
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise SpecError(f"{where}: expected true or false, found {text[:60]!r}.")
    try:
        return int(text) if kind is int else float(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise SpecError(f"{where}: expected {what}, found {text[:60]!r}.") from error
