"""Pickling for workers: the user's own code travels by value, installed packages by name."""

from __future__ import annotations

import io
import pickle
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import msgspec


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles functions and classes of modules that are not installed by value.

    Structs cannot be made again from their parts, so these go by reference always.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.registered: list[ModuleType] = []

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, CodeType):
            # cloudpickle drops the file's name, which tracebacks need.
            make, parts = self.dispatch_table[CodeType](value)
            file = value.co_filename
            return make, tuple(file if part == "<dynamic-code>" else part for part in parts)
        if isinstance(value, (FunctionType, type)) and not isinstance(value, msgspec.StructMeta):
            name = getattr(value, "__module__", None) or ""
            module = sys.modules.get(name)
            known = cloudpickle.list_registry_pickle_by_value()
            if module is not None and not _is_installed(name) and name not in known:
                cloudpickle.register_pickle_by_value(module)
                self.registered.append(module)
        return super().reducer_override(value)


def pack(value: Any) -> bytes:
    """Pickle a value so that a worker with the same packages can load it."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(value)
    finally:
        for module in pickler.registered:
            cloudpickle.unregister_pickle_by_value(module)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """Load what `pack` made, in the user's own processes only."""
    return pickle.loads(data)  # noqa: S301


@cache
def _is_installed(name: str) -> bool:
    """Whether every worker has the module: ours, Python's own, or in a site-packages directory."""
    top = name.partition(".")[0]
    if top in {"mlsched", "mlsched_pipelines"} or top in sys.stdlib_module_names:
        return True
    modules = (sys.modules.get(name), sys.modules.get(top))
    file = next((found for m in modules if (found := getattr(m, "__file__", None))), None)
    if top == "__main__" or file is None:
        return False
    where = {Path(path).resolve() for key, path in sysconfig.get_paths().items() if "lib" in key}
    parents = Path(file).resolve().parents
    return any(p in where or p.name in {"site-packages", "dist-packages"} for p in parents)
