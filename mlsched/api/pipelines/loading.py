"""``FILE.py:NAME`` as a plan: runs the user's file in this process, as a module of its own.

What the file and the modules beside it define is pickled by value from then on, since workers
elsewhere cannot import it.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from msgspec import Struct

from mlsched.api.pipelines.parameters import bind, check_text, takes_text
from mlsched.api.pipelines.tracebacks import UserCodeError, describe, user_traceback
from mlsched.errors import ConfigError, MlschedError, PipelineError, SpecError
from mlsched_pipelines import Plan

_FORM = "FILE.py:NAME"
_ENDING = ".py"
_NEVER_BY_VALUE = ("mlsched", "mlsched_pipelines")
_HINT = "Correct the file and run it again."


class Target(Struct, frozen=True):
    """Where a plan comes from: a file, and a name in it, empty for the only one."""

    file: Path
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file.name}:{self.name}" if self.name else self.file.name


class Pipeline(Struct, frozen=True):
    """A plan, or a function that makes one, in a file that has been run."""

    target: Target
    value: Any
    module: ModuleType

    def make_plan(self, settings: Mapping[str, str], interval: str = "") -> Plan:
        """The plan, which ends with a write; a function is called once.

        Args:
            settings: Parameters of the function, as text.
            interval: Given to the function if it takes one.

        Raises:
            SpecError: parameters that it does not take, or that are missing.
            UserCodeError: the function raised.
            PipelineError: what it returned is no plan, or writes nothing.
        """
        made = self._call(settings, interval)
        if not isinstance(made, Plan):
            raise PipelineError(
                f"{self.target}: expected a Plan, found {_kind_name(made)}.",
                "Return a plan that ends with write(...).",
            )
        if made.target is None:
            raise PipelineError(
                f"{self.target}: the plan writes nothing, so there is nothing to run.",
                "End it with write(...).",
            )
        send_by_value(self.target.file)
        return made

    def _call(self, settings: Mapping[str, str], interval: str) -> Any:
        if isinstance(self.value, Plan):
            if settings:
                raise SpecError(
                    f"{self.target} is a Plan, which takes no parameters.",
                    "Make it a function that returns the plan: its parameters are set by --set.",
                )
            return self.value
        given = bind(self.value, str(self.target), settings, interval)
        try:
            return self.value(**given)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
            _raise_users(error, str(self.target))


def parse_target(text: str) -> Target:
    """``FILE.py:NAME`` or ``FILE.py``; the file is there and can be read.

    Raises:
        SpecError: it has another form, or there is no such file.
        ConfigError: the working directory is gone.
    """
    check_text(_working_directory(), "the working directory")
    path, name = text, ""
    if not text.endswith(_ENDING):
        before, found, name = text.rpartition(f"{_ENDING}:")
        path = before + _ENDING
        if not found or not name.isidentifier():
            raise SpecError(
                f"expected {_FORM}, found {text[:80]!r}.",
                "NAME is a Plan in the file, or a function that returns one.",
            )
    file = Path(check_text(path, "FILE")).absolute()
    try:
        with file.open("rb"):
            return Target(file, name)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{path[:200]!r} cannot be read: {why}; expected a Python file.") from error


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError as error:
        raise ConfigError(
            "the working directory is gone; relative paths of a pipeline start there.",
            "Change to a directory that exists.",
        ) from error


def load_pipeline(target: Target) -> Pipeline:
    """Run the file and find the name in it.

    Raises:
        UserCodeError: the file raised, or is no Python.
        SpecError: it has no such name, or what has it is no plan and no function.
    """
    module = _run_file(target.file)
    name = target.name or _only_name(module, target)
    value = vars(module).get(name)
    target = Target(target.file, name)
    if name not in vars(module):
        raise SpecError(f"{target.file.name} has no {name!r}.", _choices(module, target.file.name))
    if not isinstance(value, Plan) and not callable(value):
        raise SpecError(
            f"{target}: expected a Plan or a function, found {_kind_name(value)}.",
            _choices(module, target.file.name),
        )
    return Pipeline(target, value, module)


class _FreshLoader(SourceFileLoader):
    """Compiles the source each time: cached bytecode cannot tell two edits of one second apart."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError


def _run_file(file: Path) -> ModuleType:
    """The file as a module, its directory first on the path, as when Python runs a script."""
    directory = str(file.resolve().parent)
    name = _module_name(file.stem)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    loader = _FreshLoader(name, str(file))
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(file)))
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
        sys.modules.pop(name, None)
        _raise_users(error, file.name)
    return module


def _module_name(stem: str) -> str:
    """The file's own, by which neighbours may import it, unless another module has that name."""
    if stem.isidentifier() and stem != "__main__" and stem not in sys.stdlib_module_names:
        try:
            known = importlib.util.find_spec(stem)
        except (ImportError, ValueError):
            known = None
        if known is None:
            return stem
    return f"pipeline_file_{stem}"


def _raise_users(error: BaseException, where: str) -> NoReturn:
    """Raise what ended the user's code: our own errors as they are, all else with its frames."""
    if isinstance(error, MlschedError):
        raise error
    raise UserCodeError(
        f"{where} failed: {describe(error)}", _HINT, trace=user_traceback(error)
    ) from error


def _only_name(module: ModuleType, target: Target) -> str:
    names = list(_find_plans(module))
    if len(names) == 1:
        return names[0]
    file = target.file.name
    if names:
        raise SpecError(
            f"{file} holds {len(names)} plans: {', '.join(names)}.",
            f"Name one of them: {file}:{names[0]}",
        )
    raise SpecError(
        f"{file} holds no Plan, and no function that is annotated '-> Plan'.",
        _choices(module, file),
    )


def _find_plans(module: ModuleType) -> dict[str, Any]:
    """Plans, and functions of the file annotated to return one, by name; each object once.

    Plans that write nothing count only where there is nothing else: they are parts of others.
    """
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    plans = {name: value for name, value in public.items() if isinstance(value, Plan)}
    found = {name: value for name, value in plans.items() if value.target is not None}
    found |= {name: one for name, one in public.items() if _makes_plan(one, module)}
    first = {id(value): name for name, value in reversed((found or plans).items())}
    return {name: public[name] for name in public if name in first.values()}


def _makes_plan(value: Any, module: ModuleType) -> bool:
    if not isinstance(value, FunctionType) or value.__module__ != module.__name__:
        return False
    returns = value.__annotations__.get("return")
    if isinstance(returns, str):
        return returns.strip("\"' ").rpartition(".")[2] == Plan.__name__
    return returns is Plan


def _choices(module: ModuleType, file: str) -> str:
    """What the file has to offer, for a hint."""
    found = _find_plans(module)
    if not found:
        functions = [
            name
            for name, value in vars(module).items()
            if isinstance(value, FunctionType)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
        if not functions:
            return "Assign a plan that ends with write(...) to a name, and give that name."
        return f"Its functions: {', '.join(functions[:10])}; name one that returns a Plan."
    told = []
    for name, value in found.items():
        takes = not isinstance(value, Plan) and inspect.signature(value).parameters
        told.append(f"{file}:{name}" + (f" ({takes_text(name, takes)[:-1]})" if takes else ""))
    return f"It holds {', '.join(told)}."


def _kind_name(value: Any) -> str:
    return "None" if value is None else type(value).__qualname__


def send_by_value(file: Path) -> list[str]:
    """Have cloudpickle send the file and the modules beside it whole; returns their names."""
    import cloudpickle

    directory = file.resolve().parent
    sent = []
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] in (*_NEVER_BY_VALUE, "__main__"):
            continue
        top = sys.modules.get(name.partition(".")[0])
        if top is not None and _lies_in(top, directory):
            cloudpickle.register_pickle_by_value(module)
            sent.append(name)
    return sorted(sent)


def _lies_in(module: ModuleType, directory: Path) -> bool:
    """Whether a top-level module or package is found right in the directory."""
    file = getattr(module, "__file__", None)
    if not file:
        return any(Path(each).parent == directory for each in getattr(module, "__path__", ()))
    path = Path(file)
    place = path.parent.parent if path.stem == "__init__" else path.parent
    return place.resolve() == directory
