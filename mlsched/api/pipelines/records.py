"""Records of pipeline runs: one JSON file a run, in the state directory of the user who runs it.

A record is written when the run begins, at coarse steps, and when it ends; each time it is put in
place whole and durably. It never holds the environment. Light: listing runs loads no Arrow.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mlsched.api.functions import write_durably
from mlsched.config import Paths
from mlsched.errors import ConfigError, NotFoundError, SpecError, StoreFullError

FORMAT = 1
RUNS_MAX = 1000
"""Records that are kept; older ones of runs that have ended are removed."""

ID_LENGTH_MIN = len("20261126-101530")
"""Ids are shown at least to the second: shorter ones say nothing."""

_ID = re.compile(r"\d{8}-\d{9}-[0-9a-f]{6}")
_SUFFIX = ".json"
_BYTES_MAX = 16 << 20
_TEMPORARY_AGE_S = 86_400.0
_WITHOUT_RUN = "'mlsched pipeline ls --all' shows all runs."


class RunState(StrEnum):
    """Where a run is."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    """Stopped by a signal, or its process is gone; what was finished is kept for a retry."""


class RunError(Struct, frozen=True):
    """Why a run failed."""

    type: str
    message: str
    hint: str = ""
    traceback: str = ""
    """The frames of the user's own code; empty where none took part."""


class RunProcess(Struct, frozen=True):
    """The process of a run."""

    host: str
    pid: int
    start_time: int
    """Clock ticks after boot."""
    boot_id: str


class PipelineRun(Struct, frozen=True, kw_only=True):
    """The record of one run."""

    id: str
    """Sorts by the time at which the run began."""
    pipeline: str
    file: str
    name: str
    """Of the plan, or of the function that makes it, in the file."""
    directory: str
    """Working directory: relative paths in the file start here."""
    parameters: dict[str, str] = {}
    """As they were given by ``--set``."""
    interval: str = ""
    engine: str = "local"
    workers: int | None = None
    memory_max_bytes: int | None = None
    dataset: str = ""
    plan_hash: str = ""
    state: RunState = RunState.RUNNING
    started_at: str
    """RFC 3339, UTC."""
    ended_at: str | None = None
    progress: dict[str, Any] | None = None
    """The newest `mlsched_pipelines.progress.Progress`, with its speed and the time to go."""
    counts: dict[str, int] | None = None
    version: int | None = None
    digest: str | None = None
    """Of the dataset's content at that version."""
    files: int | None = None
    tasks_resumed: int | None = None
    published: bool | None = None
    """False where the same run had been published before: nothing was computed."""
    wall_s: float | None = None
    error: RunError | None = None
    retry_of: str = ""
    process: RunProcess | None = None
    job: str = ""
    """Id of the job whose nodes were this run's cluster; empty for a run of its own."""
    format: int = FORMAT

    @property
    def names(self) -> tuple[str, ...]:
        """By what a person may ask for it: its dataset, its function or plan, its file."""
        file = Path(self.file).name
        return self.pipeline, self.name, file, f"{file}:{self.name}"

    def to_plain(self) -> dict[str, Any]:
        """The record as JSON has it."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


_DECODER = msgspec.json.Decoder(PipelineRun)


def utc_text() -> str:
    """Now, as RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_id() -> str:
    """A new id: the time in UTC to the millisecond, and 24 bits of chance."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(3)}"


def this_process() -> RunProcess | None:
    """Who runs here; None where the system does not tell, and then nobody says that it is gone."""
    from mlsched.adapters.local.processes import read_identity

    with suppress(OSError):
        found = read_identity(os.getpid())
        if found is not None:
            return RunProcess(socket.gethostname(), found.pid, found.start_time, found.boot_id)
    return None


def _is_gone(process: RunProcess | None) -> bool:
    """Whether that process has ended for sure; of another machine that is never known."""
    if process is None or process.host != socket.gethostname():
        return False
    from mlsched.adapters.local.processes import ProcessIdentity, is_alive

    try:
        return not is_alive(ProcessIdentity(process.pid, process.start_time, process.boot_id))
    except OSError:
        return False


class PipelineRuns:
    """The folder of records.

    Args:
        folder: Made by the first `create`; a missing one holds no runs.
        on_problem: Takes one line about a file that is no record, or cannot be read.
    """

    def __init__(self, folder: Path, on_problem: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder
        self._on_problem = on_problem
        self._told: set[str] = set()

    @classmethod
    def of_user(
        cls, paths: Paths, on_problem: Callable[[str], None] = lambda line: None
    ) -> PipelineRuns:
        """The records of this user on this machine; nothing is made."""
        return cls(paths.state_dir / "pipelines", on_problem)

    def _tell(self, line: str) -> None:
        """Each problem once, however often the folder is read."""
        if line not in self._told:
            self._told.add(line)
            self._on_problem(line)

    def create(self, run: PipelineRun) -> None:
        """Write the first record of a run, durably, and remove the oldest beyond `RUNS_MAX`.

        Raises:
            ConfigError: the folder cannot be made or written.
            StoreFullError: there is no room.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.folder}, where runs are recorded: {error.strerror}.",
                "Set XDG_STATE_HOME to a directory that you can write to.",
            ) from error
        self.save(run)
        self._prune()

    def save(self, run: PipelineRun) -> None:
        """Put a newer record in place of a run's, durably. Costs two fsync.

        Raises:
            StoreFullError: it cannot be written; the one before stays.
        """
        content = msgspec.json.format(msgspec.json.encode(run), indent=1)
        try:
            write_durably(self.folder / f"{run.id}{_SUFFIX}", content)
        except OSError as error:
            raise StoreFullError(
                f"cannot record the run in {self.folder}: {error.strerror}.",
                "Free some space, or set XDG_STATE_HOME to another directory.",
            ) from error

    def list_ids(self) -> list[str]:
        """Ids of all records, the newest first; tells of files that are none."""
        found = []
        for name in self._names():
            stem = name.removesuffix(_SUFFIX)
            if name.endswith(_SUFFIX) and _ID.fullmatch(stem):
                found.append(stem)
            elif not name.startswith("."):
                self._tell(f"{self.folder / name} is no record of a run; it is left out.")
        return sorted(found, reverse=True)

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"cannot read {self.folder}: {error.strerror}.") from error

    def read(self, run_id: str) -> PipelineRun | None:
        """One record; None when it is gone, or damaged, of which is told.

        A run that was left RUNNING by a process that is gone is INTERRUPTED.
        """
        path = self.folder / f"{run_id}{_SUFFIX}"
        try:
            run = _DECODER.decode(_read_file(path))
            _check_times(run)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"{path} cannot be read: {error.strerror}; it is left out.")
            return None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self._tell(f"{path} is damaged: {error}; it is left out.")
            return None
        if run.id != run_id or run.format > FORMAT:
            what = "is of a newer mlsched" if run.format > FORMAT else f"says that it is {run.id!r}"
            self._tell(f"{path} {what}; it is left out.")
            return None
        if run.state is RunState.RUNNING and _is_gone(run.process):
            return msgspec.structs.replace(run, state=RunState.INTERRUPTED)
        return run

    def read_newest(self, limit: int | None = None) -> list[PipelineRun]:
        """So many records, the newest first; all by default."""
        found: list[PipelineRun] = []
        for run_id in self.list_ids():
            if limit is not None and len(found) >= limit:
                break
            run = self.read(run_id)
            if run is not None:
                found.append(run)
        return found

    def find(self, word: str) -> PipelineRun:
        """The run of an id, of the unique beginning of one, or the newest one of a name.

        A dataset's name goes before that of a function, plan or file; what else has it is told.

        Raises:
            NotFoundError: there is none, or several ids begin so.
            SpecError: the word is empty.
        """
        if not word:
            raise SpecError("expected the id or the name of a run, found nothing.", _WITHOUT_RUN)
        ids = self.list_ids()
        matches = [word] if word in ids else [one for one in ids if one.startswith(word)]
        if len(matches) != 1:
            named = self._find_named(word, ids)
            if named is not None:
                return named
        if len(matches) > 1:
            shown = ", ".join(matches[:3]) + (", ..." if len(matches) > 3 else "")
            raise NotFoundError(
                f"{len(matches)} runs have ids that begin with {word[:40]!r}: {shown}.",
                "Write more of the id.",
            )
        run = self.read(matches[0]) if matches else None
        if run is None:
            raise NotFoundError(
                f"no run is recorded here that has the id or the name {word[:60]!r}.", _WITHOUT_RUN
            )
        return run

    def _find_named(self, word: str, ids: list[str]) -> PipelineRun | None:
        """The newest run of a name; what else has the name is told."""
        runs = [run for run in map(self.read, ids) if run is not None and word in run.names]
        found = next((run for run in runs if run.pipeline == word), runs[0] if runs else None)
        if found is None:
            return None
        newest: dict[tuple[str, str, str], PipelineRun] = {}
        for run in runs:
            newest.setdefault((run.file, run.name, run.dataset), run)
        del newest[found.file, found.name, found.dataset]
        if newest:
            others = [f"{one.id} ({one.names[-1]} to {one.dataset})" for one in newest.values()]
            more = ", ..." if len(others) > 3 else ""
            self._tell(f"{word!r} is taken for {found.id}; others: {', '.join(others[:3])}{more}.")
        return found

    def _prune(self) -> None:
        """Remove the oldest records of ended runs, and what crashed writers left."""
        for run_id in self.list_ids()[RUNS_MAX:]:
            run = self.read(run_id)
            if run is not None and run.state is not RunState.RUNNING:
                (self.folder / f"{run_id}{_SUFFIX}").unlink(missing_ok=True)
        for name in self._names():
            path = self.folder / name
            if name.startswith(".") and _age_s(path) > _TEMPORARY_AGE_S:
                with suppress(OSError):
                    path.unlink()


def shorten_ids(ids: list[str]) -> dict[str, str]:
    """The shortest unique beginning of each of all ids, never less than the time to the second."""
    ordered = sorted(ids)
    common = [_common_length(*pair) for pair in pairwise(ordered)]
    sizes = zip(ordered, [0, *common], [*common, 0], strict=False)
    return {one: one[: max(ID_LENGTH_MIN, left + 1, right + 1)] for one, left, right in sizes}


def _common_length(one: str, other: str) -> int:
    """How many letters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _check_times(run: PipelineRun) -> None:
    """Times are RFC 3339.

    Raises:
        ValueError: one is not.
    """
    for text in (run.started_at, run.ended_at):
        if text is not None and datetime.fromisoformat(text).tzinfo is None:
            raise ValueError(f"the time {text[:40]!r} has no zone")


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _read_file(path: Path) -> bytes:
    """The content of a plain file; never waits for a pipe, never follows a link.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, or larger than any record.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no file")
        content = file.read(_BYTES_MAX + 1)
    if len(content) > _BYTES_MAX:
        raise ValueError(f"it is larger than {_BYTES_MAX} bytes")
    return content
