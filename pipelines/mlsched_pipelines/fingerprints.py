"""The identity of a user's function: equal for the same behaviour, different when its code changes.

Pickled bytes do not serve: a function of an importable module is pickled by its name, so that a
corrected function would look like the old one. Here a function is its bytecode and constants, its
defaults, the values that it closes over and the globals that it names, functions among them again.
Modules count by name and version. Line numbers and comments do not count; another Python version
does, since its bytecode differs: then the run is made again, which is safe.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import cloudpickle
import numpy as np

from mlsched.errors import PipelineError

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))


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
        own = {k: v for k, v in vars(value).items() if isinstance(v, (types.FunctionType, *_PLAIN))}
        own = {
            k: v for k, v in own.items() if k not in {"__module__", "__doc__", "__firstlineno__"}
        }
        return f"class {value.__module__}.{name}".encode() + _bytes_of(own, above)
    if isinstance(value, types.BuiltinFunctionType):
        return f"builtin {value.__module__}.{name}".encode()
    if callable(value) and hasattr(value, "__dict__") and vars(value):
        return b"object" + _bytes_of((type(value), vars(value)), above)
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PipelineError(
            f"The function uses a {type(value).__name__} that cannot be pickled: {error}.",
            "Make it inside the function, or name what it does: map_batches(identity=...).",
        ) from error
    return pickled


def _array_bytes(value: np.ndarray[Any, Any], above: frozenset[int]) -> bytes:
    if value.dtype.hasobject:
        return b"objects" + _bytes_of((value.shape, value.reshape(-1).tolist()), above)
    return f"array {value.dtype.str} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()


def _module_bytes(value: types.ModuleType, above: frozenset[int]) -> bytes:
    return f"module {value.__name__} {getattr(value, '__version__', '')}".encode()


def _partial_bytes(value: functools.partial[Any], above: frozenset[int]) -> bytes:
    return b"partial" + _bytes_of((value.func, value.args, value.keywords), above)


def _method_bytes(value: types.MethodType, above: frozenset[int]) -> bytes:
    return b"method" + _bytes_of((value.__func__, value.__self__), above)


_ENCODERS: tuple[tuple[Any, Callable[[Any, frozenset[int]], bytes]], ...] = (
    (types.FunctionType, _function_bytes),
    (types.CodeType, _code_bytes),
    (types.ModuleType, _module_bytes),
    ((tuple, list, set, frozenset, dict), _container_bytes),
    (functools.partial, _partial_bytes),
    (types.MethodType, _method_bytes),
    (np.ndarray, _array_bytes),
)
