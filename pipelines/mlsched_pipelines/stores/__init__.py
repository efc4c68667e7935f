"""Where datasets live: a folder of this machine or of a shared file system, or a bucket of S3.

A `Store` holds files under names relative to its address. The commit, tasks and readers need these
calls and no others, so that each store keeps the same promises: tested by one suite.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa
from msgspec import Struct


class Entry(Struct, frozen=True):
    """One file of a store."""

    path: str
    size_bytes: int
    changed_at: float
    """Seconds since the epoch, by the clock of the store."""


@runtime_checkable
class Store(Protocol):
    """Files under relative names (``data/RUN/x.arrow``). Safe for many threads and processes.

    Every call raises UnreachableError when the store does not answer, and PipelineError when it
    refuses (credentials, permissions).
    """

    @property
    def url(self) -> str:
        """The address that users write: an absolute path, or ``s3://BUCKET/PREFIX``."""

    def check(self) -> None:
        """Find out before a run whether commits are safe here; leaves nothing behind.

        Raises:
            PipelineError: of two who create one name, both would win.
        """

    def read(self, path: str) -> bytes:
        """The whole content.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def open(self, path: str) -> pa.NativeFile:
        """A file for random access; mapped into memory where that is possible.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def size(self, path: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def list_files(self, folder: str) -> list[Entry]:
        """The files directly in a folder, by name; without those that are not finished yet."""

    def list_folders(self, folder: str) -> list[str]:
        """The folders directly in a folder, by name, relative to the store."""

    def put_new(self, path: str, data: bytes) -> bool:
        """Create a file with its whole content, durably, unless its name is taken.

        Of any number of callers at once exactly one gets True, also when it had to try again.
        """

    def scratch(self, folder: str) -> Path:
        """A name on this machine for a file that is written before `put_file`."""

    def put_file(self, source: Path, path: str) -> None:
        """Take over a closed file of this machine: whole and durable once it has its name.

        The source is gone afterwards. A file of that name is replaced.
        """

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files, durably; those that are not there are as they should be."""


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+)(.*)", re.DOTALL)
_QUERY = re.compile(r"\?[^/]*=.*", re.DOTALL)

ADDRESS_HINT = (
    "Expected a path of this machine, or s3://BUCKET/PREFIX as text: a Path makes one slash of two."
)


def is_address(text: str) -> bool:
    """Whether a text begins as addresses do; with one slash too, which a `Path` makes of two."""
    return _ADDRESS.fullmatch(text) is not None


def shown(address: str) -> str:
    """An address for messages: without what may be a key, a password or a signature in it."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return address
    _, at, place = found[2].rpartition("@")
    return f"{found[1]}{'…@' if at else ''}{_QUERY.sub('?…', place)}"


def open_store(address: str | Path) -> Store:
    """The store of an address: ``s3://BUCKET/PREFIX``, or a folder, which need not exist yet.

    Raises:
        ConfigError: no store has such an address, or a package that it needs is not installed.
    """
    text = str(address)
    if text.startswith("s3://"):
        from mlsched_pipelines.stores.s3 import S3Store

        return S3Store(text)
    from mlsched_pipelines.stores.local import LocalStore

    return LocalStore(text)
