"""Which process is meant: ids are used again, so an id alone never names one.

Turns what a supervisor wrote about itself into "alive or not", and signals it without ever
reaching a stranger. Source: pidfd_open(2); fault F21 of the reliability catalogue.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from msgspec import Struct

from mlsched.adapters.local.supervisor.trees import read_process, send_signal


class ProcessIdentity(Struct, frozen=True):
    """One process, among all that ever had its id."""

    pid: int
    start_time: int
    """Clock ticks after boot."""
    boot_id: str


@cache
def read_boot_id() -> str:
    """The identifier that the kernel drew when it started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_identity(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has this id now; None when none has.

    Raises:
        OSError: that cannot be known now.
    """
    process = read_process(pid)
    if process is None or process.is_dead:
        return None
    return ProcessIdentity(pid, process.start_time, read_boot_id())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether this very process still runs; one that only waits to be reaped does not.

    Raises:
        OSError: that cannot be known now.
    """
    return identity == read_identity(identity.pid)


def signal_identity(identity: ProcessIdentity, number: int) -> bool:
    """Signal this very process.

    Returns:
        False when it has ended, and then nothing was signalled.
    """
    if identity.boot_id != read_boot_id():
        return False
    return send_signal(identity.pid, identity.start_time, number)
