"""What a function returned or raised, as files in the attempt directory of its job.

Tables and arrays become Arrow IPC, plain values JSON when that loses nothing, the rest a pickle.
A pickle is only loaded from a file that this user owns and nobody else can write: the service and
other users never load one. Written by `mlsched.api.worker`, read by `mlsched.api.jobs`.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import traceback
from pathlib import Path
from typing import Any

from mlsched.api.errors import EnvironmentMismatch, RemoteError
from mlsched.api.functions import write_durably
from mlsched.errors import NotFoundError, PermanentError

_KIND = b"mlsched.kind"
_SHAPE = b"mlsched.shape"
JSON_BITS_MAX = 10_000
"""Larger integers are pickled: Python refuses to write more than 4,300 digits."""

JSON_DEPTH_MAX = 200
"""Deeper values are pickled: JSON readers recurse."""


def write_result(directory: Path, rank: int, value: Any) -> Path:
    """Store what a function returned; durable on return.

    Raises:
        OSError: there is no room.
        Exception: whatever pickling the value raises.
    """
    table = _to_arrow(value)
    if table is not None:
        return _write(directory, f"result-{rank}.arrow", _arrow_bytes(table))
    if is_exact_json(value):
        text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
        return _write(directory, f"result-{rank}.json", text.encode())
    import cloudpickle

    return _write(directory, f"result-{rank}.pickle", cloudpickle.dumps(value))


def _write(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    write_durably(path, content)
    return path


def read_result(directory: Path, rank: int = 0) -> Any:
    """What the function of this attempt returned.

    Raises:
        NotFoundError: it left no result.
        PermanentError: the file is not safe to load, or damaged.
    """
    for kind, read in (("arrow", _read_arrow), ("json", _read_json), ("pickle", load_pickle)):
        path = directory / f"result-{rank}.{kind}"
        if path.exists():
            return read(path)
    raise NotFoundError(f"there is no result in {directory}.")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def is_exact_json(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives back this very value: types, order and all."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return True
    if kind is int or kind is float:
        return _is_exact_number(value)
    if depth >= JSON_DEPTH_MAX:
        return False
    if kind is list:
        return all(is_exact_json(one, depth + 1) for one in value)
    if kind is dict:
        return all(type(key) is str and is_exact_json(one, depth + 1) for key, one in value.items())
    return False


def _is_exact_number(value: int | float) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value.bit_length() <= JSON_BITS_MAX


def _to_arrow(value: Any) -> Any:
    """A table that holds the value without loss; None where there is none."""
    home = type(value).__module__.partition(".")[0]
    if home == "pyarrow":
        return _tag_arrow(value)
    if home == "numpy":
        return _tag_array(value)
    if home == "pandas":
        return _tag_frame(value)
    return None


def _tag_arrow(value: Any) -> Any:
    import pyarrow as pa

    if isinstance(value, pa.Table):
        return _tag(value, b"table")
    if isinstance(value, pa.RecordBatch):
        return _tag(pa.Table.from_batches([value]), b"batch")
    return None


def _tag_array(value: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    plain = type(value) is np.ndarray and value.dtype.isnative and value.dtype.kind in "biuf"
    if not plain or value.dtype.itemsize > 8:
        return None
    flat = pa.array(np.ascontiguousarray(value).reshape(-1), from_pandas=False)
    shape = json.dumps(value.shape).encode()
    return _tag(pa.table({"values": flat}), b"ndarray", {_SHAPE: shape})


def _tag_frame(value: Any) -> Any:
    import pyarrow as pa

    pd: Any = sys.modules["pandas"]

    if type(value) is not pd.DataFrame or value.attrs:
        return None
    try:
        table = pa.Table.from_pandas(value)
        pd.testing.assert_frame_equal(table.to_pandas(), value, check_exact=True)
    except (pa.ArrowException, AssertionError, TypeError, ValueError):
        return None
    return _tag(table, b"frame")


def _tag(table: Any, kind: bytes, more: dict[bytes, bytes] | None = None) -> Any:
    return table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _KIND: kind, **(more or {})}
    )


def _arrow_bytes(table: Any) -> bytes:
    import pyarrow as pa

    table = table.unify_dictionaries()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _read_arrow(path: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    metadata = dict(table.schema.metadata or {})
    kind, shape = metadata.pop(_KIND, b"table"), metadata.pop(_SHAPE, b"null")
    table = table.replace_schema_metadata(metadata or None)
    if kind == b"ndarray":
        values = table.column("values").to_numpy()
        return values.reshape(json.loads(shape)).copy()
    if kind == b"frame":
        return table.to_pandas()
    if kind == b"batch":
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    return table


def load_pickle(path: Path) -> Any:
    """Load a pickle that only this user can have written.

    Raises:
        PermanentError: somebody else could have.
    """
    import cloudpickle

    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        private = found.st_uid == os.getuid() and not found.st_mode & 0o022
        if not (private and stat.S_ISREG(found.st_mode)):
            raise PermanentError(
                f"{path} is not loaded: others can write it, and a pickle can run anything.",
                "Look at who owns the state directory.",
            )
        return cloudpickle.load(file)


def write_error(directory: Path, rank: int, error: BaseException) -> None:
    """Store what a function raised: as text always, as itself where it can be pickled.

    Raises:
        OSError: there is no room.
    """
    text = "".join(traceback.format_exception(error))
    told = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "text": text,
        "code": getattr(error, "code", "") if isinstance(error, EnvironmentMismatch) else "",
        "message": _message_of(error),
    }
    pickled = _pickle_error(error)
    if pickled is not None:
        _write(directory, f"error-{rank}.pickle", pickled)
    _write(directory, f"error-{rank}.json", json.dumps(told).encode())


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__ may do anything
        return "its message cannot be told: str() of it fails"


def _pickle_error(error: BaseException) -> bytes | None:
    import cloudpickle
    from tblib import pickling_support

    try:
        pickling_support.install(error)
        return bytes(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception may hold anything; its text is stored anyway
        return None


def read_error(directory: Path) -> BaseException | None:
    """What the rank that failed first raised; None when no rank left an exception."""
    found = sorted(directory.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        return None
    told = _read_json(found[0])
    if told.get("code") == EnvironmentMismatch.code:
        return EnvironmentMismatch(told["message"], "Submit it again from this Python.")
    pickled = found[0].with_suffix(".pickle")
    if pickled.exists():
        try:
            error = load_pickle(pickled)
        except Exception:  # noqa: BLE001 - classes may be missing here; the text is what is left
            error = None
        if isinstance(error, BaseException):
            return error
    remote = RemoteError(
        f"{told['type']}: {told['message']}", "Its traceback stands in `remote_text`."
    )
    remote.remote_type, remote.remote_text = told["type"], told["text"]
    remote.add_note(told["text"].rstrip())
    return remote
