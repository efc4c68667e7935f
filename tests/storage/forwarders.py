"""An address that leads to a server which listens on loopback only: pods cannot reach that."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, target: tuple[str, int]) -> None:
        self.target = target
        self.open: set[socket.socket] = set()
        super().__init__((address, 0), _Handler)

    def cut(self) -> None:
        """End the connections that clients keep open."""
        for each in list(self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        here: socket.socket = self.request
        with socket.create_connection(self.server.target) as there:
            self.server.open |= {here, there}
            back = threading.Thread(target=_copy, args=(there, here), daemon=True)
            back.start()
            _copy(here, there)
            back.join()
            self.server.open -= {here, there}


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarded(address: str, endpoint: str) -> Iterator[str]:
    """The endpoint at an address that leads to another; connections are passed on as they are."""
    target = urlsplit(endpoint)
    where: tuple[Any, Any] = (target.hostname, target.port)
    with _Server(address, where) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"{target.scheme}://{address}:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.cut()
