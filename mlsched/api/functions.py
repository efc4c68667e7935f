"""Python functions as files: what is to be called, with which arguments, made for which Python.

A blob is one header line of JSON and a pickle made by cloudpickle; its name is the SHA-256 of its
content. It is written by the user's process and loaded by the user's job, `mlsched.api.worker`;
the service only ever sees its path.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections import ChainMap
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from mlsched.api.errors import EnvironmentMismatch
from mlsched.errors import SpecError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = "mlsched.api.worker"
_PREFIX = "sha256-"


class Header(msgspec.Struct, frozen=True):
    """What must hold before the pickle is loaded, and what the function expects to find."""

    name: str
    python: tuple[int, int]
    cloudpickle: str
    path: list[str]
    """``sys.path`` of the process that made it: modules beside its main script are found there."""


_decode_header = msgspec.json.Decoder(Header).decode


class Call(msgspec.Struct, frozen=True):
    """A function and its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def command_of(blob: Path) -> list[str]:
    """What runs a blob: the worker, under the interpreter that made it."""
    return [sys.executable, "-m", WORKER, str(blob)]


def is_function(command: Sequence[str]) -> bool:
    """Whether a job's command was made by `command_of`."""
    return len(command) == 4 and tuple(command[1:3]) == ("-m", WORKER)


def store_function(call: Call, blobs_dir: Path, by_value: Sequence[ModuleType] = ()) -> Path:
    """Write a call to a blob, durable on return; the same content is written once.

    Args:
        call: What to run.
        blobs_dir: Directory of blobs; it exists.
        by_value: Modules whose code travels along, because the job cannot import them.

    Raises:
        SpecError: it cannot be pickled.
        StoreFullError: there is no room.
    """
    payload = _pickle(call, by_value)
    header = Header(
        name=getattr(call.function, "__qualname__", type(call.function).__qualname__),
        python=sys.version_info[:2],
        cloudpickle=version("cloudpickle"),
        path=[str(Path(entry).absolute()) for entry in sys.path],
    )
    content = msgspec.json.encode(header) + b"\n" + payload
    blob = blobs_dir / f"{_PREFIX}{hashlib.sha256(content).hexdigest()}"
    if not blob.exists():
        try:
            write_durably(blob, content)
        except OSError as error:
            raise StoreFullError(
                f"cannot write the function to {blobs_dir}: {error.strerror}.",
                "Free some space and try again.",
            ) from error
    return blob


def _pickle(call: Call, by_value: Sequence[ModuleType]) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Keeps the file names of code, which cloudpickle drops: tracebacks need them."""

        dispatch_table = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

    with _registered(by_value), io.BytesIO() as file:
        try:
            Pickler(file).dump((call.function, call.args, call.kwargs))
            return file.getvalue()
        except Exception as error:
            raise SpecError(
                f"the function or its arguments cannot be sent: {error}",
                "Open files, connections and locks inside the function instead.",
            ) from error


def _reduce_code(code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    import cloudpickle

    make, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _rebuild_code, (code.co_filename, make, parts)


def _rebuild_code(filename: str, make: Callable[..., CodeType], parts: tuple[Any, ...]) -> CodeType:
    return make(*parts).replace(co_filename=filename)


@contextmanager
def _registered(modules: Sequence[ModuleType]) -> Iterator[None]:
    import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            with suppress(ValueError):
                cloudpickle.unregister_pickle_by_value(module)


def write_durably(path: Path, content: bytes) -> None:
    """Put a private file in place at once: readers see all of it or nothing, also after a crash.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_blob(blob: Path) -> tuple[Header, bytes]:
    """Header and pickle of a blob whose content is what its name says.

    Raises:
        SpecError: it is missing or damaged.
    """
    try:
        content = blob.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read the function {blob}: {error.strerror}.") from error
    if blob.name != f"{_PREFIX}{hashlib.sha256(content).hexdigest()}":
        raise SpecError(f"the function {blob} is damaged: its content is not what its name says.")
    head, _, payload = content.partition(b"\n")
    return _decode_header(head), payload


def load_call(header: Header, payload: bytes) -> Call:
    """The call in a blob; runs whatever the pickle says, so only in the job of its owner.

    Raises:
        EnvironmentMismatch: made by another version of Python; pickled code does not carry over.
    """
    import cloudpickle

    here = sys.version_info[:2]
    if tuple(header.python) != here:
        made, runs = (".".join(map(str, one)) for one in (header.python, here))
        raise EnvironmentMismatch(
            f"{header.name} was submitted by Python {made}, and its job runs Python {runs}.",
            "Submit it again from the Python that is to run it.",
        )
    given = set(header.path)
    own = [entry for entry in sys.path if str(Path(entry).absolute()) not in given]
    sys.path[:] = [*header.path, *own]
    function, args, kwargs = cloudpickle.loads(payload)
    return Call(function, args, kwargs)
