"""Servers that an S3 client meets on a bad day, each on a port of 127.0.0.1.

with FaultProxy(gateway.endpoint) as proxy:
    proxy.choose = lambda request: LOST if request.method == "PUT" else None
    ...
    proxy.seen                      # every request that came

with silent_server() as endpoint: ...
with rclone(folder) as endpoint: ...
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from tests.controlplane.processes import Processes
from tests.storage.ceph import free_port

START_S_MAX = 30.0
BODY_BYTES_MAX = 1 << 28


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    target: str


@dataclass(frozen=True)
class Fault:
    """What is done to one request.

    Attributes:
        is_applied: The server gets it.
        status: Of the answer; 0: the connection is cut in its place.
        body: Of the answer.
        share: How much of the server's true answer is sent before the connection is cut.
    """

    is_applied: bool = False
    status: int = 0
    body: bytes = b""
    share: float = 0.0


LOST = Fault(is_applied=True)
"""The server does it, and nobody hears of it."""

CUT = Fault()
"""The connection breaks before the server gets it."""


class FaultProxy:
    """A proxy in front of an S3 server. Signatures stay valid: the host is passed on as it was.

    Args:
        target: The server's endpoint; where it is empty, ``choose`` answers everything.
        tls: Speak TLS to clients.
    """

    def __init__(self, target: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.choose: Callable[[Seen], Fault | None] = lambda _: None
        self.seen: list[Seen] = []
        self._target, self._tls = target, tls
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self._ready, self._ended = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def endpoint(self) -> str:
        """For AWS_ENDPOINT_URL_S3."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(START_S_MAX), "the proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(START_S_MAX)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        timeout = aiohttp.ClientTimeout(total=START_S_MAX)
        async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
            self._session = session
            runner = web.ServerRunner(
                web.Server(self._handle, access_log=None), shutdown_timeout=0.1
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=self._tls)
            await site.start()
            self._ready.set()
            await self._ended.wait()
            await runner.cleanup()
            self._abort_connections()

    def _abort_connections(self) -> None:
        """End what is open still: clients that do not read, handshakes that are not over."""
        transports: Mapping[int, asyncio.Transport] = getattr(self._loop, "_transports", {})
        for transport in list(transports.values()):
            transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request._client_max_size = BODY_BYTES_MAX
        seen = Seen(request.method, request.raw_path)
        self.seen.append(seen)
        fault = self.choose(seen)
        body = await request.read()
        if fault is not None and not fault.is_applied:
            return _answer(request, fault)
        answer = await self._forward(request, body)
        if fault is None:
            return answer
        if not fault.share:
            return _answer(request, fault)
        # The header promises more than comes.
        whole = answer.body if isinstance(answer.body, bytes) else b""
        cut = web.StreamResponse(status=answer.status, headers=answer.headers)
        cut.content_length = len(whole)
        await cut.prepare(request)
        await cut.write(whole[: int(len(whole) * fault.share)])
        return _answer(request, CUT)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> web.Response:
        url = URL(self._target + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k != "Transfer-Encoding"}
        async with self._session.request(
            request.method,
            url,
            headers=headers,
            data=io.BytesIO(body) if body else None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
            dropped = ("Transfer-Encoding", "Connection")
            kept = {k: v for k, v in answer.headers.items() if k not in dropped}
            if request.method != "HEAD":
                kept.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=kept, body=content)


def _answer(request: web.BaseRequest, fault: Fault) -> web.Response:
    if not fault.status:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    return web.Response(status=fault.status, body=fault.body)


@contextmanager
def silent_server() -> Iterator[str]:
    """The endpoint of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # The kernel accepts for it.
        listener.listen(128)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def rclone(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """The endpoint of rclone, which keeps buckets as folders and ignores If-None-Match."""
    program = Path(sys.executable).with_name("rclone")
    port = free_port()
    argv = (
        *(program, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", f"{access_key},{secret_key}", folder),
    )
    with Processes("mlsched-rclone-") as processes:
        process = processes.start("rclone", argv)
        processes.wait_until("rclone answers", lambda: _listens(port), process)
        yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tls_server(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
