"""What goes to the service with a document: who submits, from where, with which environment.

A job on one machine runs with the environment of the shell that submitted it, as ``sbatch`` does by
default. It travels beside the document, never in it, so that documents can be shown and shared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsched.config import current_user
from mlsched.errors import ConfigError

_OF_A_JOB = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "GROUP_RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "RANK",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "WORLD_SIZE",
)
"""Set by mlsched in a job, beside MLSCHED_* and PET_*: a job that a job submits gets its own."""


def capture_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that a job is to run with.

    Leaves out what is not UTF-8, what this process is given as a job itself, and ``_``.
    """
    found = dict(os.environ if environ is None else environ)
    inside = "MLSCHED_JOB_ID" in found
    return {
        name: value
        for name, value in found.items()
        if name != "_" and _is_text(name, value) and not (inside and _belongs_to_job(name))
    }


def _is_text(name: str, value: str) -> bool:
    try:
        f"{name}{value}".encode()
    except UnicodeEncodeError:
        return False
    return True


def _belongs_to_job(name: str) -> bool:
    return name in _OF_A_JOB or name.startswith(("MLSCHED_", "PET_"))


def submit_args(document: Mapping[str, Any], idempotency_key: str = "") -> dict[str, Any]:
    """Arguments of the operations ``submit`` and ``preview`` for an MLJob document.

    Raises:
        ConfigError: the working directory is gone.
    """
    return {
        "document": dict(document),
        "idempotency_key": idempotency_key,
        "user": current_user(),
        "environment": capture_environment(),
        "workdir": current_directory(),
    }


def current_directory() -> str:
    """The absolute working directory.

    Raises:
        ConfigError: it was removed.
    """
    try:
        return str(Path.cwd())
    except OSError as error:
        raise ConfigError(
            "the current directory does not exist any more.", "Change to another and try again."
        ) from error
