"""Folders for files on their way to a store that is not on this machine.

Each process has one below ``TMPDIR``, only for its user, and removes it at its end. A process that
was killed cannot: the next one removes what nobody holds a lock on.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
from pathlib import Path

PREFIX = "mlsched-scratch-"


class _Scratch:
    """This process's folder; a forked child gets one of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.folder: Path | None = None
        self.handle = -1


_scratch = _Scratch()


def _begin_anew() -> None:
    global _scratch  # noqa: PLW0603
    _scratch = _Scratch()


os.register_at_fork(after_in_child=_begin_anew)


def scratch_path() -> Path:
    """A name for a new file that nobody else uses, in this process's folder.

    Raises:
        OSError: the folder for temporary files cannot be written.
    """
    with _scratch.lock:
        if _scratch.folder is None or not _scratch.folder.is_dir():
            _remove_abandoned(Path(tempfile.gettempdir()))
            _scratch.folder, _scratch.handle = _make_folder()
            atexit.register(_remove, _scratch.folder, os.getpid())
        return _scratch.folder / secrets.token_hex(8)


def _make_folder() -> tuple[Path, int]:
    """A new folder and the handle that holds its lock for as long as the process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # Another process took it for an abandoned one, and it is gone already.
        if _lock(handle) and folder.is_dir():
            return folder, handle
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
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


def _remove(folder: Path, owner: int) -> None:
    """At exit; forked children inherit the call, but not the folder."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
