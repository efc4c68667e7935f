"""Folders for files on their way to a store that is not on this machine.

Each process has one below ``TMPDIR``, only for its user, and removes it at its end.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import threading
from pathlib import Path

from mlsched_pipelines.folders import make_held_folder

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
            _scratch.folder, _scratch.handle = make_held_folder(PREFIX, tempfile.gettempdir())
            atexit.register(_remove, _scratch.folder, os.getpid())
        return _scratch.folder / secrets.token_hex(8)


def _remove(folder: Path, owner: int) -> None:
    """At exit; forked children inherit the call, but not the folder."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
