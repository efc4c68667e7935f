"""What the GPU driver told since the machine started, kept over restarts of the service.

A driver tells an event once. The service leaves when it is idle, and a GPU that fell off the bus
before must not be given to the next job because nobody remembers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from mlsched.adapters.local.processes import read_boot_id
from mlsched.core.inventory import bound_events
from mlsched.model.inventory import GpuEvent


class _Kept(Struct):
    boot_id: str
    events: tuple[GpuEvent, ...] = ()


_decode_kept = msgspec.json.Decoder(_Kept).decode


class EventRecord:
    """Events of this boot, in the order in which they came.

    Args:
        path: Written anew with each event: they are rare. Losing it loses no job.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: tuple[GpuEvent, ...] = self._read()

    def add(self, event: GpuEvent) -> None:
        """Remember one more; a disk that is full does not keep it from counting now."""
        self.events = bound_events((*self.events, event))
        with contextlib.suppress(OSError):
            self._write(self.events)

    def _read(self) -> tuple[GpuEvent, ...]:
        try:
            kept = _decode_kept(self._path.read_bytes())
        except (OSError, ValueError):
            return ()
        return kept.events if kept.boot_id == read_boot_id() else ()

    def _write(self, events: Sequence[GpuEvent]) -> None:
        new = self._path.with_suffix(".new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(_Kept(read_boot_id(), tuple(events))))
        new.replace(self._path)
