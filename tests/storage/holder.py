"""One Ceph for all worker processes of a test run, which ends with the last of them.

The first worker that binds a name of Linux's abstract sockets gives the socket to a process of its
own, ``python -m tests.storage.holder``, which starts Ceph and tells everybody that connects how
to reach it. It ends Ceph when the last connection closes: the kernel closes those of a process
that dies, so nothing is left whatever ends the run.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.storage.ceph import Ceph, Gateway

ROOT = Path(__file__).parents[2]
WAIT_S_MAX = 150.0
_LOG_BYTES = 4000
_HOLDERS: list[subprocess.Popen[bytes]] = []
"""Those that this process started: they may outlive its interest in them."""


@contextmanager
def shared_gateway(name: str) -> Iterator[Gateway]:
    """The gateway that all processes share that give the same name; one of them starts it."""
    with tempfile.TemporaryFile() as log, _connect(name, log.fileno()) as line:
        line.settimeout(WAIT_S_MAX)
        answer = line.makefile("rb").readline().decode()
        if not answer.startswith("{"):
            log.seek(0)
            said = log.read()[-_LOG_BYTES:].decode(errors="replace")
            raise RuntimeError(f"expected a Ceph, but it did not start: {answer}{said}")
        yield Gateway.from_json(answer)


def _connect(name: str, log: int) -> socket.socket:
    """A connection to the holder, which is started unless somebody else did so."""
    address = f"\0mlsched-{name}"
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        with socket.socket(socket.AF_UNIX) as mine:
            if _bind(mine, address):
                mine.listen(256)
                _start(mine, log)
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(address)
        except ConnectionRefusedError:
            # Whoever has the name either does not listen yet or is about to end.
            line.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return line


def _bind(listener: socket.socket, address: str) -> bool:
    try:
        listener.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _start(listener: socket.socket, log: int) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.holder"],
        stdin=listener,
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
        cwd=ROOT,
    )
    _HOLDERS.append(holder)


def serve(listener: socket.socket) -> None:
    """Start Ceph, tell who connects about it, and end it after the last has gone."""
    with Ceph() as ceph:
        users: list[socket.socket] = []
        while True:
            readable = select.select([listener, *users], [], [])[0]
            if listener in readable:
                line = listener.accept()[0]
                with suppress(OSError):
                    line.sendall(ceph.gateway.to_json().encode() + b"\n")
                users.append(line)
            for line in [each for each in users if each in readable]:
                if not line.recv(1):
                    users.remove(line)
                    line.close()
            if not users and not select.select([listener], [], [], 0)[0]:
                break
        listener.close()


def main() -> None:
    """Serve on the listening socket that is standard input."""
    # Ctrl-C goes to the tests, which then let go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=os.dup(0)))


if __name__ == "__main__":
    main()
