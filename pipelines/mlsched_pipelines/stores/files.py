"""Durable files: written aside, flushed, then given their name in one step.

After a crash at any instruction a name either is not there or names a whole file. Nothing here
knows what the files mean.
"""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlsched.errors import PipelineError, StoreFullError

TEMPORARY_PREFIX = ".tmp-"


def temporary_path(folder: Path) -> Path:
    """A name in a folder that nobody else uses and readers ignore."""
    return folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def publish_new(path: Path, data: bytes) -> bool:
    """Create a file with its whole content, unless the name is taken.

    The content is flushed before it has its name (``link`` fails if the name exists, on every file
    system that we support), so of many writers exactly one gets True.

    Raises:
        PipelineError: the file system has no hard links.
    """
    temporary = temporary_path(path.parent)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        won = _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return won


def move_durably(source: Path, path: Path) -> None:
    """Give a closed file its name: flushed before, so that the name stands for all of it."""
    handle = os.open(source, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    source.replace(path)
    sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may answer so to a repeated request whose first try succeeded: count the links.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise PipelineError(
                f"The file system of {path.parent} has no hard links: commits need them.",
                "Keep datasets on ext4, XFS, NFS, CephFS or GlusterFS.",
            ) from error
        raise
    return True


@contextmanager
def full_disk_explained(url: str) -> Iterator[None]:
    """Turn *no space left* and *over quota* into an error that says what it means.

    Args:
        url: Of the store that is written; for a bucket it is the disk that is full on which files
            wait for their upload.

    Raises:
        StoreFullError: the disk is full; nothing was published, finished tasks are kept.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f"{tempfile.gettempdir()} (TMPDIR)" if "://" in url else url
            raise StoreFullError(
                f"The disk of {place} is full. Nothing was published, nothing is lost.",
                "Free some space and run again: finished tasks are not done twice.",
            ) from error
        raise
