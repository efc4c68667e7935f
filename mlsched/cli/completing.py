"""Job names for completion, in a cache file: completing never asks the service."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlsched.cli.session import Session

NAMES_MAX = 500
_FILE = "job-names"
_RECORDS_READ_MAX = 50


def remember(session: Session, names: Iterable[str]) -> None:
    """Put names in front of those that are known. A cache that cannot be written is no error."""
    path = session.paths.cache_dir / _FILE
    wanted = list(names)
    known = read_names(path)
    if set(wanted) <= set(known):
        return
    kept = list(dict.fromkeys([*wanted, *known]))[:NAMES_MAX]
    temporary = path.with_name(f".{_FILE}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text("\n".join(kept), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        return


def read_names(path: Path) -> list[str]:
    """Names in the cache file; none when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").split("\n")[:NAMES_MAX]
    except (OSError, UnicodeDecodeError):
        return []


def complete_job(incomplete: str) -> list[str]:
    """Names of jobs that begin so; from the cache alone, and never an error."""
    from mlsched.config import Paths

    names = read_names(Paths.from_environment().cache_dir / _FILE)
    return [name for name in names if name and name.startswith(incomplete)]


def complete_pipeline_run(incomplete: str) -> list[str]:
    """Pipelines with newest runs, and ids of runs, that begin so; never an error."""
    from mlsched.api.pipelines.records import PipelineRuns
    from mlsched.config import Paths
    from mlsched.errors import MlschedError

    runs = PipelineRuns.of_user(Paths.from_environment())
    try:
        newest = runs.read_newest(_RECORDS_READ_MAX)
        names = [name for run in newest for name in (run.pipeline, run.name)]
        found = [*dict.fromkeys(names), *runs.list_ids()]
    except MlschedError:
        return []
    return [one for one in found if one and one.startswith(incomplete)]
