"""The identity of a user's function: equal for the same behaviour, different when its code changes.

Pickled bytes do not serve: a function of an importable module is pickled by its name, so that a
corrected function would look like the old one. Here a function is its bytecode and constants, its
defaults, the values that it closes over and the globals that it names, functions among them again.
Classes of the user count with all that they and their bases say, objects by class and state.
Modules of the user count with their whole source, installed ones by name and version, whatever of
them is used. Line numbers and comments do not count in functions; another Python version does,
since its bytecode differs: then the run is made again.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
import types
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from mlsched.errors import PipelineError

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))


_CONTAINERS = (tuple, list, set, frozenset, dict)
_INSTALLED = (sysconfig.get_path("stdlib"), "/site-packages/", "/dist-packages/")


def fingerprint(function: Callable[..., Any]) -> str:
    """32 hexadecimal digits that name what a function does.

    Raises:
        PipelineError: the function closes over something that cannot be pickled.
    """
    return blake2b(_bytes_of(function, frozenset()), digest_size=16).hexdigest()


def _bytes_of(value: Any, above: frozenset[int]) -> bytes:
    if isinstance(value, _PLAIN):
        return repr(value).encode()
    if id(value) in above:
        return b"recursion"
    above |= {id(value)}
    for kinds, encode in _ENCODERS:
        if isinstance(value, kinds):
            return encode(value, above)
    return _other_bytes(value, above)


def _function_bytes(function: types.FunctionType, above: frozenset[int]) -> bytes:
    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = sorted(_names_of(code) & function.__globals__.keys())
    used = [(name, function.__globals__[name]) for name in names]
    parts = (code, function.__defaults__, function.__kwdefaults__, cells, used)
    return b"function" + _bytes_of(parts, above)


def _names_of(code: types.CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*(_names_of(each) for each in inner))


def _code_bytes(code: types.CodeType, above: frozenset[int]) -> bytes:
    parts = (
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_flags,
        code.co_exceptiontable,
    )
    return b"code" + _bytes_of(parts, above)


def _container_bytes(value: Any, above: frozenset[int]) -> bytes:
    items = value.items() if isinstance(value, dict) else value
    encoded = [_bytes_of(item, above) for item in items]
    if isinstance(value, (set, frozenset)):
        encoded.sort()
    lengths = ",".join(str(len(each)) for each in encoded)
    return f"{type(value).__name__}[{lengths}]".encode() + b"".join(encoded)


def _other_bytes(value: Any, above: frozenset[int]) -> bytes:
    """Classes by their methods, objects by class and state; anything else by its pickled bytes."""
    name = getattr(value, "__qualname__", None)
    if isinstance(value, type):
        bases = [base for base in value.__bases__ if _is_own(base)]
        parts = (_members(value), bases)
        return f"class {value.__module__}.{name}".encode() + _bytes_of(parts, above)
    if isinstance(value, types.BuiltinFunctionType):
        return f"builtin {value.__module__}.{name}".encode()
    if (callable(value) or _is_own(type(value))) and hasattr(value, "__dict__"):
        return b"object" + _bytes_of((type(value), vars(value)), above)
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PipelineError(
            f"The function uses a {type(value).__name__} that cannot be pickled: {error}.",
            "Make it inside the function, or name what it does: map_batches(identity=...).",
        ) from error
    return pickled


def _members(kind: type) -> dict[str, Any]:
    """What a class itself says: its functions, however they are bound, and its plain values."""
    found: dict[str, Any] = {}
    for name, member in vars(kind).items():
        if isinstance(member, (staticmethod, classmethod)):
            found[name] = member.__func__
        elif isinstance(member, property):
            found[name] = (member.fget, member.fset, member.fdel)
        elif isinstance(member, functools.cached_property):
            found[name] = member.func
        elif isinstance(member, types.FunctionType) or (
            not name.startswith("__") and isinstance(member, (*_PLAIN, *_CONTAINERS))
        ):
            found[name] = member
    return found


def _is_own(kind: type) -> bool:
    """Whether a class is the user's, and not of an installed package or of Python."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__ == "__main__":
        return True
    return file is not None and _is_own_file(file)


def _is_own_file(file: str) -> bool:
    return not any(place in file for place in _INSTALLED)


def _array_bytes(value: np.ndarray[Any, Any], above: frozenset[int]) -> bytes:
    if value.dtype.hasobject:
        return b"objects" + _bytes_of((value.shape, value.reshape(-1).tolist()), above)
    return f"array {value.dtype.str} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()


def _module_bytes(value: types.ModuleType, above: frozenset[int]) -> bytes:
    name = f"module {value.__name__} {getattr(value, '__version__', '')}".encode()
    file = getattr(value, "__file__", None)
    if file is None or not _is_own_file(file):
        return name
    try:
        return name + blake2b(Path(file).read_bytes()).digest()
    except OSError:
        return name


def _partial_bytes(value: functools.partial[Any], above: frozenset[int]) -> bytes:
    return b"partial" + _bytes_of((value.func, value.args, value.keywords), above)


def _method_bytes(value: types.MethodType, above: frozenset[int]) -> bytes:
    return b"method" + _bytes_of((value.__func__, value.__self__), above)


_ENCODERS: tuple[tuple[Any, Callable[[Any, frozenset[int]], bytes]], ...] = (
    (types.FunctionType, _function_bytes),
    (types.CodeType, _code_bytes),
    (types.ModuleType, _module_bytes),
    (_CONTAINERS, _container_bytes),
    (functools.partial, _partial_bytes),
    (types.MethodType, _method_bytes),
    (np.ndarray, _array_bytes),
)
