"""The small files of an attempt directory: written whole, or once, or in spite of a full disk."""

# pathlib costs more to import than all of the supervisor's own code.
# ruff: noqa: PTH104, PTH108, PTH110, PTH112, PTH123
from __future__ import annotations

import os
import time

from .jsons import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RESERVE_BYTES = 4096
"""Room for the exit status, taken before anything is started: one block of most file systems."""

RETRY_S = 1.0
"""Between two tries to write the exit status."""


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: str) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return loads(file.read())


def write_new(path: str, value: Any) -> int:
    """Write a JSON file that did not exist; returns its open handle, not yet synced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(handle, dumps(value).encode())
    except OSError:
        os.close(handle)
        raise
    return handle


def replace(directory: str, name: str, value: Any) -> None:
    """Put a JSON file in place of another at once; not durable, readers never see part of it."""
    temporary = f"{directory}/.{name}.{os.getpid()}"
    os.close(write_new(temporary, value))
    os.rename(temporary, f"{directory}/{name}")


def link_once(directory: str, name: str, value: Any) -> bool:
    """Create a file that only one of several processes can create; durable when True.

    The name appears before the content is synced: whoever sees it may trust that it is there, and
    after a power cut an empty file still says that somebody claimed it.
    """
    temporary = f"{directory}/.{name}.{os.getpid()}"
    handle = write_new(temporary, value)
    try:
        os.link(temporary, f"{directory}/{name}")
        os.fsync(handle)
        sync_directory(directory)
    except FileExistsError:
        return False
    finally:
        os.close(handle)
        os.unlink(temporary)
    return True


class Reserve:
    """Disk space held for one small file that must be written even when the disk is full.

    Raises:
        OSError: there is no room now.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = f"{directory}/.reserve.{os.getpid()}"
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(self._handle, b" " * RESERVE_BYTES)
            os.posix_fallocate(self._handle, 0, RESERVE_BYTES)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the space back."""
        os.close(self._handle)
        os.unlink(self._path)

    def publish(self, name: str, value: Any) -> None:
        """Write the value into the reserved space and give it its name, durably.

        Tries until it works: returns without having written only when the directory is gone. The
        text of the value should be shorter than the reserve.
        """
        content = dumps(value).encode()
        while True:
            try:
                os.pwrite(self._handle, content, 0)
                os.ftruncate(self._handle, len(content))
                os.fsync(self._handle)
                os.rename(self._path, f"{self._directory}/{name}")
                sync_directory(self._directory)
                return
            except FileNotFoundError:
                if not os.path.isdir(self._directory) or os.path.exists(
                    f"{self._directory}/{name}"
                ):
                    return
            except OSError:
                pass
            time.sleep(RETRY_S)


def _write_all(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
