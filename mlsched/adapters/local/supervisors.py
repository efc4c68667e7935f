"""Starts the program that supervises an attempt. Called by `nodes.LocalNode`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mlsched.adapters.local import supervisor

PASSED_VARIABLES = ("LD_LIBRARY_PATH", "MLSCHED_NO_CGROUPS")
"""Of our own environment, what a supervisor gets: an interpreter may need its libraries."""


def spawn_supervisor(attempt_dir: Path, status_handle: int, use_groups: bool) -> int:
    """Start the supervisor of an attempt in a session of its own; returns its process id.

    Raises:
        OSError: it cannot be started.
    """
    env = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    env["LC_ALL"] = "C"
    if not use_groups:
        env["MLSCHED_NO_CGROUPS"] = "1"
    program = Path(supervisor.__file__).with_name("__main__.py")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-X", "utf8", str(program), str(attempt_dir)],
        env,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, status_handle, 3),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(attempt_dir / "supervisor.log"), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD),
    )
