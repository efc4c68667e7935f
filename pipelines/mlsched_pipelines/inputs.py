"""Input files by address: a path of this machine or of a shared file system, or an object of S3."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from mlsched.errors import ConfigError, NotFoundError, PipelineError
from mlsched_pipelines.stores import ADDRESS_HINT, is_address, open_store, shown

if TYPE_CHECKING:
    from mlsched_pipelines.stores.s3 import S3Store

Paths = str | Path | Sequence[str | Path]

BUFFER_BYTES = 1 << 20
"""Bytes of one request where lines of an object are read."""

_MARKS = "*?["


def is_object(address: str) -> bool:
    """Whether an address names an object of S3."""
    return address.startswith("s3://")


def open_object(address: str) -> tuple[S3Store, str]:
    """The bucket of an object as a store, and its key.

    Raises:
        ConfigError: the bucket cannot be addressed.
    """
    from mlsched_pipelines.stores.s3 import S3Store

    bucket, _, key = address.removeprefix("s3://").partition("/")
    if key.startswith("/"):
        raise PipelineError(
            f"The address {shown(address)!r} has a part between two slashes that is empty.",
            "Write s3://BUCKET/KEY with simple names between the slashes.",
        )
    store = open_store(f"s3://{bucket}")
    assert isinstance(store, S3Store), "s3:// addresses are those of S3 stores"
    return store, key


def open_input(address: str) -> pa.NativeFile:
    """An input file for random access.

    Raises:
        NotFoundError: there is no such file.
        PipelineError: it cannot be read.
    """
    try:
        if is_object(address):
            store, key = open_object(address)
            return store.open(key)
        return pa.OSFile(address)
    except FileNotFoundError:
        raise NotFoundError(f"There is no input file {address}.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"The input file {address} cannot be read: {error}.") from error


def open_binary(address: str) -> BinaryIO:
    """An input file for reading lines and bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not is_object(address):
        return Path(address).open("rb")
    store, key = open_object(address)
    return BufferedReader(_Raw(store.open(key)), BUFFER_BYTES)


class _Raw(RawIOBase):
    """A file of Arrow as one of Python, which can be buffered and read by lines."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def expand(paths: Paths) -> tuple[str, ...]:
    """The files of a path, a pattern, or several, each pattern's in sorted order.

    Raises:
        NotFoundError: a pattern stands for no file.
        ConfigError: an address of another kind.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: list[str] = []
    for path in map(str, given):
        if is_address(path) and not is_object(path):
            raise ConfigError(f"No input has the address {shown(path)!r}.", ADDRESS_HINT)
        matches = _objects(path) if is_object(path) else _files(Path(path).absolute())
        if not matches:
            raise NotFoundError(f"No input file matches {shown(path)!r}.")
        found.extend(matches)
    if not found:
        raise NotFoundError("A source needs at least one input file, found none.")
    return tuple(found)


def _files(pattern: Path) -> list[str]:
    """The files of a pattern in sorted order; a plain path is itself, there or not."""
    if not any(mark in str(pattern) for mark in _MARKS):
        return [str(pattern)]
    root = Path(pattern.anchor)
    return sorted(str(found) for found in root.glob(str(pattern.relative_to(root))))


def _objects(pattern: str) -> list[str]:
    if not any(mark in pattern for mark in _MARKS):
        return [pattern]
    folder, _, name = pattern.rpartition("/")
    if any(mark in folder for mark in _MARKS):
        raise PipelineError(
            f"The pattern {shown(pattern)!r} has a wildcard in its folder.",
            "In a bucket only the last part of an address may have one.",
        )
    store, prefix = open_object(folder)
    names = [entry.path for entry in store.list_files(prefix)]
    bucket = folder.removeprefix("s3://").partition("/")[0]
    return [f"s3://{bucket}/{each}" for each in names if fnmatchcase(each.rpartition("/")[2], name)]
