"""Ways to an API server: a proxy, a certificate of another name, a connection that was closed."""

from __future__ import annotations

import asyncio
import http.server
import json
import shutil
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlsched.adapters.kubernetes.apis import Api
from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import NoAnswerError
from mlsched.adapters.kubernetes.kubeconfigs import Route, Static
from tests.controlplane.credentials import Authority


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers each request with what was asked, and closes every second connection."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_GET(self) -> None:
        """Answer."""
        body = json.dumps({"path": self.path, "host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        Answering.count += 1
        if Answering.count % 2:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Proxy(socketserver.StreamRequestHandler):
    """Passes CONNECT on to one port, whatever host it names; notes what it was asked."""

    heads: list[str]
    port: int

    def handle(self) -> None:
        """One connection."""
        head = ""
        while not head.endswith("\r\n\r\n"):
            head += self.rfile.readline().decode()
        self.heads.append(head)
        with socket.create_connection(("127.0.0.1", self.port)) as other:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_copy, args=(other, self.connection))
            back.start()
            _copy(self.connection, other)
            back.join(5)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Serve until the end; the port."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


Served = tuple[Callable[..., Connections], list[str]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Makes connections to a server with a certificate for ``inside.example``, and proxy heads."""
    authority = Authority()
    certificate, key = authority.server(["inside.example"])
    (tmp_path / "pair").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair")
    with ExitStack() as stack:
        api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        api.socket = context.wrap_socket(api.socket, server_side=True)
        port = stack.enter_context(serving(api))
        handler = type("OnePort", (Proxy,), {"heads": [], "port": port})
        proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        proxy.daemon_threads = True
        proxy_port = stack.enter_context(serving(proxy))

        def connect(host: str, *, user: str = "", by_proxy: bool = False, name: str = "") -> Any:
            address = f"https://{host}:{port}"
            route = Route(f"http://{user}127.0.0.1:{proxy_port}" if by_proxy else "", name)
            static = Static(address, ca=authority.pem)
            return Connections(Access(address, static, "team", "prod", route))

        yield connect, handler.heads
    shutil.rmtree(tmp_path, ignore_errors=True)


def ask(connections: Connections) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(connections.get("/version"))
    return found


def test_a_certificate_of_another_name_is_taken_where_the_kubeconfig_names_it(
    served: Served,
) -> None:
    with pytest.raises(NoAnswerError, match="certificate"):
        ask(served[0]("127.0.0.1"))
    assert ask(served[0]("127.0.0.1", name="inside.example"))["path"] == "/version"


def test_a_proxy_is_asked_for_the_server(served: Served) -> None:
    found = ask(served[0]("inside.example", by_proxy=True))
    assert found["host"].startswith("inside.example:")
    assert served[1][0].startswith("CONNECT inside.example:")


@pytest.mark.parametrize("by_proxy", [False, True])
def test_the_controller_goes_the_same_ways(served: Served, *, by_proxy: bool) -> None:
    host = "inside.example" if by_proxy else "127.0.0.1"
    access = served[0](host, by_proxy=by_proxy, name="" if by_proxy else "inside.example").access

    async def run() -> bytes:
        api = Api(access)
        try:
            return await api.get("/version")
        finally:
            await api.close()

    assert json.loads(asyncio.run(run()))["path"] == "/version"
    assert len(served[1]) == by_proxy


def test_a_proxy_is_told_who_asks(served: Served) -> None:
    ask(served[0]("inside.example", by_proxy=True, user="alice:s%20t@"))
    assert "Proxy-Authorization: Basic YWxpY2U6cyB0" in served[1][0]


@pytest.mark.parametrize("by_proxy", [False, True])
def test_connections_that_the_server_closes_are_opened_again(
    served: Served, *, by_proxy: bool
) -> None:
    if by_proxy:
        connections = served[0]("inside.example", by_proxy=True)
    else:
        connections = served[0]("127.0.0.1", name="inside.example")
    assert [ask(connections)["path"] for _ in range(6)] == ["/version"] * 6
