"""Makes recordings for bug reports, and inventories of them and of ``nvidia-smi``'s documents.

Called by ``mlsched gpus record`` and ``mlsched gpus --replay``. What is replayed comes from other
people: it is bounded in size and checked before use, and nothing of it is ever placed on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec.structs import replace

from mlsched.adapters.nvml.bindings import LIBRARY, load_binding
from mlsched.adapters.nvml.documents import parse_document
from mlsched.adapters.nvml.guards import Guard
from mlsched.adapters.nvml.inventories import Session, read_inventory
from mlsched.adapters.nvml.probe import EXIT_NO_LIBRARY
from mlsched.adapters.nvml.recordings import (
    FORMAT,
    PlayedHost,
    Player,
    Recording,
    StandingClock,
    installed,
)
from mlsched.errors import PermanentError, SpecError, UnreachableError
from mlsched.model.inventory import Inventory

SIZE_BYTES_MAX = 64 << 20
"""A recording of 8 GPUs has about 1 MiB."""

RECORD_S = 60.0
_PLAY_S = 60.0

_decode_recording = msgspec.json.Decoder(Recording).decode


def record(deadline_s: float = RECORD_S) -> bytes:
    """A recording of this machine as JSON, without what identifies it.

    Raises:
        PermanentError: there is no driver library.
        UnreachableError: the driver did not answer in time, or crashed its reader.
    """
    command = [sys.executable, "-P", "-m", "mlsched.adapters.nvml.record", f"{deadline_s / 2:g}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline_s,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"the driver did not answer within {deadline_s:g} s.") from error
    if done.returncode == EXIT_NO_LIBRARY:
        raise PermanentError(
            f"nothing to record: no NVIDIA driver library ({LIBRARY}) on this machine."
        )
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise UnreachableError(f"the recorder ended with code {done.returncode}: {last[:200]}")
    return done.stdout


def replay(path: Path) -> Inventory:
    """The inventory of a recording, or of the output of ``nvidia-smi -q -x``.

    Raises:
        SpecError: it cannot be read, or is neither of the two.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_BYTES_MAX + 1)
        at_ms = path.stat().st_mtime_ns // 1_000_000
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}.") from error
    if len(data) > SIZE_BYTES_MAX:
        raise SpecError(f"{path} is larger than {SIZE_BYTES_MAX >> 20} MiB.")
    if data.lstrip()[:1] == b"<":
        return parse_document(data, at_ms)
    return play(_decode(data))


def _decode(data: bytes) -> Recording:
    try:
        recording = _decode_recording(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SpecError(
            f"expected a recording or the output of nvidia-smi -q -x: {error}.",
            "Recordings are made by: mlsched gpus record FILE",
        ) from error
    if recording.format != FORMAT:
        raise SpecError(
            f"expected a recording of format {FORMAT}, found {recording.format[:40]!r}."
        )
    return recording


def play(recording: Recording) -> Inventory:
    """Run the reading code on a recording. Needs no driver, and loads none."""
    nvml = load_binding()
    with installed(nvml, Player(recording)):
        clock, guard = StandingClock(recording.taken_at_ms), Guard(_PLAY_S, _PLAY_S)
        session = Session(nvml, clock, PlayedHost(recording), guard, "recording", _ignore)
        inventory = read_inventory(session)
    return replace(inventory, binding=recording.binding)


def _ignore(step: str) -> None:
    """Nobody waits for this process."""
