"""The identity of a user's function: equal for the same behaviour, different when its code changes.

Pickled bytes do not serve: a function of an importable module is pickled by its name, so that a
corrected function would look like the old one. Here a function is its bytecode and constants, its
defaults, the values that it closes over and the globals that it names, functions among them again.
Classes of the user count with all that they and their bases say, objects by class and by what
pickle would make them of. Modules of the user count with their whole source and that of every
module of the user's that they import, wherever the import stands; what is installed counts by name
and version. Line numbers and comments do not count in functions; another Python version does,
since its bytecode differs: then the run is made again.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import importlib.util
import sys
import sysconfig
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from pickle import PicklingError
from typing import Any

import cloudpickle
import numpy as np

from mlsched.errors import PipelineError

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))
_CONTAINERS = (tuple, list, set, frozenset, dict)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)
_INSTALLED = (sysconfig.get_path("stdlib"), "/site-packages/", "/dist-packages/")


def fingerprint(function: Callable[..., Any]) -> str:
    """32 hexadecimal digits that name what a function does.

    Raises:
        PipelineError: the function closes over something that cannot be pickled.
    """
    try:
        return _Encoder().encode(function).hex()
    except RecursionError as error:
        raise _unknown(function, error) from error


class _Encoder:
    """16 bytes for each value; what was met before counts by its number, so that cycles end."""

    def __init__(self, before: _Encoder | None = None) -> None:
        # The values are held: another one could get the place of one that is gone.
        self._met: dict[int, tuple[int, Any]] = dict(before._met) if before else {}
        self._open: set[int] = set(before._open) if before else set()

    def encode(self, value: Any) -> bytes:
        """The digest of a value of any kind."""
        kind, key = type(value), id(value)
        if kind in _PLAIN:
            return _digest(f"{kind.__name__} {value!r}".encode())
        if key in self._met:
            return _digest(b"met %d" % self._met[key][0])
        if key in self._open:
            return _digest(b"recursion")
        if kind not in _CONTAINERS:
            self._met[key] = (len(self._met), value)
            return self._digest_of(value)
        # Equal containers are equal, whether they are one object or two.
        self._open.add(key)
        encoded = self._digest_of(value)
        self._open.discard(key)
        return encoded

    def _digest_of(self, value: Any) -> bytes:
        if type(value) in _CONTAINERS:
            return _digest(*_container_parts(value, self))
        found = (parts for kind, parts in _KINDS if isinstance(value, kind))
        return _digest(*next(found, _object_parts)(value, self))

    def encode_unordered(self, values: Iterable[Any]) -> list[bytes]:
        """The digests of the members of a set, as if each was the first to be met."""
        return sorted(_Encoder(self).encode(value) for value in values)


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


Parts = Iterator[bytes]


def _function_parts(function: types.FunctionType, encoder: _Encoder) -> Parts:
    code, module = function.__code__, function.__globals__.get("__name__", "")
    yield b"function"
    cells = [_content(cell) for cell in function.__closure__ or ()]
    for part in (code, function.__defaults__, function.__kwdefaults__, cells):
        yield encoder.encode(part)
    if not _is_own(module):
        yield _installed(module, function.__qualname__)
        return
    names = _names_of(code)
    used = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    yield encoder.encode(sorted(used))
    for name in sorted(used):
        yield encoder.encode(used[name])
        yield from _attribute_parts(used[name], names, encoder)
    package = function.__globals__.get("__package__") or ""
    yield from _source_parts(_imports_of(code, package))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _names_of(code: types.CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*(_names_of(each) for each in inner))


def _attribute_parts(value: Any, names: set[str], encoder: _Encoder) -> Parts:
    """What code names of a module of the user's: constants as they are now, modules in packages."""
    if isinstance(value, types.ModuleType) and _is_own(value.__name__):
        for name in sorted(names & vars(value).keys()):
            yield name.encode()
            yield _member(vars(value)[name], encoder)
            yield from _attribute_parts(vars(value)[name], names - {name}, encoder)


def _code_parts(code: types.CodeType, encoder: _Encoder) -> Parts:
    yield b"code"
    for part in (
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_flags,
        code.co_exceptiontable,
    ):
        yield encoder.encode(part)


def _container_parts(value: Any, encoder: _Encoder) -> Parts:
    yield type(value).__name__.encode()
    if isinstance(value, (set, frozenset)):
        yield from encoder.encode_unordered(value)
    else:
        for item in value.items() if isinstance(value, dict) else value:
            yield encoder.encode(item)


def _class_parts(kind: type, encoder: _Encoder) -> Parts:
    # Types that C code makes may have something else there than a name.
    module = kind.__module__ if isinstance(kind.__module__, str) else "builtins"
    if not _is_own(module):
        yield _installed(module, kind.__qualname__)
        return
    yield f"class {module}.{kind.__qualname__}".encode()
    for base in (type(kind), *kind.__bases__):
        yield encoder.encode(base)
    for name, member in tuple(vars(kind).items()):
        if isinstance(member, _DESCRIPTORS) or name.startswith("_abc_"):
            continue
        if not name.startswith("__") or isinstance(member, _METHODS):
            yield name.encode()
            yield _member(member, encoder)


def _member(member: Any, encoder: _Encoder) -> bytes:
    """What a class says of itself; a lock or the like counts by its kind alone."""
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    elif isinstance(member, property):
        member = (member.fget, member.fset, member.fdel)
    elif isinstance(member, functools.cached_property):
        member = member.func
    try:
        return encoder.encode(member)
    except PipelineError:
        return _digest(type(member).__qualname__.encode())


def _object_parts(value: Any, encoder: _Encoder) -> Parts:
    """An object by what pickle would make it of, so that classes of the user's count inside it."""
    yield encoder.encode(type(value))
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        made = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - of the user's class; then cloudpickle knows, or says why
        made = _pickled(value)
    if isinstance(made, str):
        made = (made, getattr(value, "__dict__", None))
    for part in made if isinstance(made, tuple) else (made,):
        yield encoder.encode(list(part) if isinstance(part, Iterator) else part)


def _pickled(value: Any) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except (TypeError, ValueError, AttributeError, PicklingError) as error:
        raise _unknown(value, error) from error
    return pickled


def _unknown(value: Any, error: Exception) -> PipelineError:
    return PipelineError(
        f"The function uses a {type(value).__name__} that cannot be pickled: {error}.",
        "Make it inside the function, or name what it does: map_batches(identity=...).",
    )


def _array_parts(value: np.ndarray[Any, Any], encoder: _Encoder) -> Parts:
    if type(value) is not np.ndarray:
        yield from _object_parts(value, encoder)
        return
    yield encoder.encode(("array", value.dtype.descr, value.shape))
    if value.dtype.hasobject:
        yield encoder.encode(value.reshape(-1).tolist())
    else:
        yield np.ascontiguousarray(value).tobytes()


def _builtin_parts(value: types.BuiltinFunctionType, encoder: _Encoder) -> Parts:
    yield f"builtin {value.__module__}.{value.__qualname__}".encode()
    if not isinstance(value.__self__, types.ModuleType):
        yield encoder.encode(value.__self__)


def _reference_parts(value: weakref.ReferenceType[Any], encoder: _Encoder) -> Parts:
    """Of caches: what they hold says nothing of what is computed."""
    yield b"weak reference"


def _partial_parts(value: functools.partial[Any], encoder: _Encoder) -> Parts:
    yield encoder.encode(("partial", value.func, value.args, value.keywords))


def _method_parts(value: types.MethodType, encoder: _Encoder) -> Parts:
    yield encoder.encode(("method", value.__func__, value.__self__))


def _module_parts(value: types.ModuleType, encoder: _Encoder) -> Parts:
    yield _installed(value.__name__, "")
    if _is_own(value.__name__):
        yield from _source_parts([value.__name__])


def _source_parts(names: Iterable[str]) -> Parts:
    """The sources of modules of the user's, and of all that they import."""
    found: dict[str, bytes] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found and _is_own(name):
            path, found[name] = _read_source(name)
            package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
            waiting += _imports_of(_compiled(path, found[name]), package)
    for name in sorted(found):
        yield _digest(name.encode(), found[name])


def _read_source(name: str) -> tuple[str, bytes]:
    file = _file_of(name)
    try:
        return (file, Path(file).read_bytes()) if file else ("", b"")
    except OSError:
        return "", b""


def _compiled(path: str, source: bytes) -> types.CodeType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(source if path.endswith(".py") else b"", path, "exec")
    except (SyntaxError, ValueError):
        return compile(b"", path, "exec")


def _imports_of(code: types.CodeType, package: str) -> Iterator[str]:
    """The modules, and what may be one, that code imports anywhere in it."""
    consts: list[Any] = []
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME":
            level, names = consts[-2:]
            base = str(each.argval)
            if level:
                parent = package.rsplit(".", level - 1)[0]
                base = f"{parent}.{base}" if base else parent
            yield base
            yield from (f"{base}.{name}" for name in names or () if name != "*")
            while base := base.rpartition(".")[0]:
                yield base
        if each.opname == "LOAD_CONST":
            consts.append(each.argval)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _imports_of(const, package)


def _file_of(module: str) -> str | None:
    """Where a module lies; None where it has no file, or there is no such module."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001 - finding a module may run its package, which may do anything
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _is_own(module: str) -> bool:
    """Whether a module is the user's, and not of an installed package or of Python."""
    top = module.partition(".")[0]
    if top == "__main__":
        return True
    return top not in sys.stdlib_module_names and not any(
        place in (_file_of(each) or "") for each in (top, module) for place in _INSTALLED
    )


def _installed(module: str, name: str) -> bytes:
    """What is installed, by name and version."""
    top = sys.modules.get(module.partition(".")[0])
    return f"{module} {name} {getattr(top, '__version__', '')}".encode()


_KINDS: tuple[tuple[Any, Callable[[Any, _Encoder], Parts]], ...] = (
    (types.FunctionType, _function_parts),
    (types.CodeType, _code_parts),
    (types.ModuleType, _module_parts),
    (type, _class_parts),
    (functools.partial, _partial_parts),
    (types.MethodType, _method_parts),
    (types.BuiltinFunctionType, _builtin_parts),
    (weakref.ReferenceType, _reference_parts),
    (np.ndarray, _array_parts),
)
"""Before them come plain values and containers, by their very type."""
