"""Numbers of the planes of this machine: ports, bridge and control groups follow from them."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from tests.controlplane.processes import StartError

LOCKS = Path(f"/tmp/mlsched-planes-{os.geteuid()}")
PLANES_MAX = 200
FIRST_PORT = 21000
PORTS = 20


def take_number() -> tuple[int, int]:
    """A number that no other plane on this machine has, and the lock that holds it.

    Ports, the bridge of the pods and control groups follow from it. The ports lie below those
    that the kernel gives to clients, so a restarted server finds its own free.
    """
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    for number in range(PLANES_MAX):
        lock = os.open(LOCKS / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        if all(_is_free(port) for port in ports_of(number)):
            return number, lock
        os.close(lock)
    raise StartError(f"expected a free number of {PLANES_MAX}, all are taken: see {LOCKS}")


def ports_of(number: int) -> range:
    return range(FIRST_PORT + number * PORTS, FIRST_PORT + (number + 1) * PORTS)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
