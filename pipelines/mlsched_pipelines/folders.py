"""Private folders of processes, which go when their process does, also when it is killed.

A process holds a lock on its folder as long as it lives. One that is killed cannot clear up: the
next one that makes a folder removes those that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


def make_held_folder(prefix: str, root: str) -> tuple[Path, int]:
    """A new folder, for this user alone, and the handle that holds it until it is closed.

    Args:
        prefix: Of its name. Folders of the same prefix that nobody holds are removed.
        root: Where it is made.

    Raises:
        OSError: nothing can be written there.
    """
    _remove_abandoned(Path(root), prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # Another process took it for an abandoned one, and it is gone already.
        if _lock(handle) and folder.is_dir():
            return folder, handle
        os.close(handle)


def _remove_abandoned(root: Path, prefix: str) -> None:
    for folder in root.glob(f"{prefix}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or another user's
        try:
            if os.fstat(handle).st_uid == os.geteuid() and _lock(handle):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
