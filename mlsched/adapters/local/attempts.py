"""The directory of one attempt: what the service writes there, and what it reads of a supervisor.

``launch.json`` and ``revoke.json`` come first, durably. Then either a supervisor links its claim
to ``run.json``, or the service links ``revoke.json`` there: whichever link is made decides, for
ever, whether the attempt may run. ``exit.json`` is the end of an attempt that ran.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from mlsched.adapters.local.processes import ProcessIdentity
from mlsched.adapters.local.supervisor.files import sync_directory
from mlsched.model.jobs import Enforcement, Outcome

LOG_TAIL_BYTES = 400

T = TypeVar("T")


class StartedRank(Struct, frozen=True):
    """The first process of a rank."""

    rank: int
    pid: int
    start_time: int


class Started(Struct, frozen=True):
    """What a supervisor tells once every rank runs."""

    started_at_ms: int
    enforcement: Enforcement = Enforcement()
    ranks: tuple[StartedRank, ...] = ()


class Claim(Struct, frozen=True):
    """Who runs the attempt, or that nobody ever will."""

    identity: ProcessIdentity | None = None
    """None in a claim that a power cut emptied, and in a revoked one."""
    is_revoked: bool = False


decode_started = msgspec.json.Decoder(Started).decode
_decode_identity = msgspec.json.Decoder(ProcessIdentity).decode
_decode_outcome = msgspec.json.Decoder(Outcome).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode


class AttemptDirectory:
    """The files of one attempt. Methods block for a few disk writes at most."""

    def __init__(self, jobs_dir: Path, job_id: str, attempt: int) -> None:
        self.job_dir = jobs_dir / job_id
        self.path = self.job_dir / str(attempt)

    @property
    def checkpoint_dir(self) -> Path:
        """Where every attempt of the job finds what earlier ones saved."""
        return self.job_dir / "checkpoints"

    def has_launch(self) -> bool:
        """Whether anybody could have started the attempt."""
        return (self.path / "launch.json").exists()

    def read_launch(self) -> dict[str, Any]:
        """The launch as it was written; empty when there is none that can be read."""
        try:
            found = json.loads((self.path / "launch.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def create(self) -> None:
        """Make the directories, private and durable.

        Raises:
            OSError: they cannot be made.
        """
        self.job_dir.parent.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.job_dir, self.checkpoint_dir, self.path):
            directory.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.job_dir.parent, self.job_dir):
            sync_directory(str(directory))

    def write_launch(self, launch: dict[str, Any], script: str) -> None:
        """Write everything that a supervisor needs; durable on return.

        Raises:
            OSError: nothing can be started from what was written.
        """
        if script:
            text = script.encode("utf-8", "surrogateescape")
            self._write("script", text, mode=0o700)
        self._write("revoke.json", b'{"revoked": true}')
        self._write("launch.json", json.dumps(launch).encode())
        sync_directory(str(self.path))

    def write_stop(self, grace_s: int) -> None:
        """Leave word how long a supervisor should wait; without it the spec's grace is used."""
        self._write("stop.json", json.dumps({"cause": "stopped", "grace_s": grace_s}).encode())

    def _write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        """Put a file in place at once, its content durable before its name."""
        temporary = self.path / f".{name}.new"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)

    def revoke(self) -> bool:
        """Take the launch back; False when a supervisor was first, or it was taken back before.

        Raises:
            OSError: neither is known now; try again.
        """
        try:
            os.link(self.path / "revoke.json", self.path / "run.json")
        except FileExistsError:
            return False
        sync_directory(str(self.path))
        return True

    def read_claim(self) -> Claim | None:
        """Who has claimed the attempt; None when nobody has."""
        try:
            content = (self.path / "run.json").read_bytes()
        except FileNotFoundError:
            return None
        try:
            found = msgspec.json.decode(content)
            if found.get("revoked"):
                return Claim(is_revoked=True)
            return Claim(_decode_identity(content))
        except (ValueError, AttributeError):
            return Claim()

    def read_started(self) -> Started | None:
        """What the supervisor told of the start; None when nothing has started."""
        return self._decode("started.json", decode_started)

    def read_outcome(self) -> Outcome | None:
        """How the attempt ended; None when no supervisor has recorded an end."""
        return self._decode("exit.json", _decode_outcome)

    def read_groups(self) -> list[str]:
        """Control groups that the supervisor made."""
        return self._decode("cgroups.json", _decode_names) or []

    def read_stuck(self) -> list[int]:
        """Processes that the supervisor cannot kill, once it is trying in vain."""
        return self._decode("stuck.json", _decode_ids) or []

    def read_supervisor_log(self) -> str:
        """The end of what the supervisor itself printed, on one line."""
        try:
            content = (self.path / "supervisor.log").read_bytes()[-LOG_TAIL_BYTES:]
        except OSError:
            return ""
        return " ".join(content.decode("utf-8", "replace").split())

    def _decode(self, name: str, decode: Callable[[bytes], T]) -> T | None:
        try:
            return decode((self.path / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
