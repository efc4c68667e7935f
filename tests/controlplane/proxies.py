"""A proxy in front of an API server that breaks what passes through it, as a bad network would.

    with FaultProxy(plane.address, plane.ca_file) as proxy:
        kubeconfig = proxy.kubeconfig(plane.admin_kubeconfig, path)
        proxy.choose = RandomFaults(seed=7, rate=0.2)
        ...
        proxy.writes                        # every write that came through, and its answer

It speaks plain HTTP/1.1 to its clients and TLS to the server, one connection for one. What it does
to a request is decided by ``choose``; ``on_applied`` and ``on_answered`` are called around the
answer to each write, in the thread of the proxy. Standard library only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

HEAD_BYTES_MAX = 1 << 18


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: str
    body_hash: str

    @property
    def is_watch(self) -> bool:
        """Whether it follows changes."""
        return "watch=1" in self.query or "watch=true" in self.query

    @property
    def is_lease(self) -> bool:
        """Whether it is about who leads."""
        return "/leases" in self.path

    @property
    def is_counted(self) -> bool:
        """Whether it is a write that changes what is run: leases and events do not."""
        return self.method != "GET" and not self.is_lease and not self.path.endswith("/events")


@dataclass
class Write:
    """A write and its answer.

    Attributes:
        number: From 1, among those that count; 0 for others.
        code: The server's answer; None while there is none, or when there never was one.
        is_answered: Whether the client got it.
    """

    request: Request
    number: int
    code: int | None = None
    is_answered: bool = False


@dataclass(frozen=True)
class Fault:
    """What is done to one request; as it stands: nothing.

    Attributes:
        delay_s: Wait before it is passed on.
        code: Answer so, without passing it on.
        reason: Word of the Status in that answer.
        retry_after_s: Header of that answer.
        is_lost: Close the connection without passing it on.
        drops_answer: Pass it on, then close the connection without an answer.
        is_silent: Take it and never answer; the connection stays open.
        cut_after: Events of a watch that pass; what follows is done to the next one.
        cut: ``line`` breaks off inside it, ``end`` ends the stream in order inside it, ``gone``
            puts an ERROR event with 410 in its place, ``silent`` sends nothing any more.
    """

    delay_s: float = 0.0
    code: int = 0
    reason: str = ""
    retry_after_s: int = 0
    is_lost: bool = False
    drops_answer: bool = False
    is_silent: bool = False
    cut_after: int = -1
    cut: str = ""


NONE = Fault()
Choose = Callable[[Request], Fault]
Hook = Callable[[Write], None]


class RandomFaults:
    """Faults by chance, the same for the same seed and the same order of requests.

    Args:
        rate: Of requests and watches that something happens to.
        delay_s_max: The longest delay.
    """

    def __init__(self, seed: int, rate: float, delay_s_max: float = 0.15) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._delay_s_max = delay_s_max

    def __call__(self, request: Request) -> Fault:
        """What happens to this one; leases are spared most of it, or nobody would lead."""
        rate = self._rate * (0.2 if request.is_lease else 1)
        if self._random.random() >= rate:
            return NONE
        if request.is_watch:
            return self._of_watch()
        return self._random.choice(self._of_request(request))

    def _of_watch(self) -> Fault:
        after = self._random.randrange(8)
        return self._random.choice(
            [
                Fault(code=410, reason="Expired"),
                Fault(code=503, reason="ServiceUnavailable"),
                *(Fault(cut_after=after, cut=how) for how in ("line", "line", "end", "gone")),
                Fault(cut_after=after, cut="silent"),
            ]
        )

    def _of_request(self, request: Request) -> Sequence[Fault]:
        found = [
            Fault(code=500, reason="InternalError"),
            Fault(code=503, reason="ServiceUnavailable"),
            Fault(is_lost=True),
            Fault(drops_answer=True),
            Fault(drops_answer=True),
            Fault(delay_s=self._random.random() * self._delay_s_max),
            Fault(delay_s=self._random.random() * self._delay_s_max),
        ]
        if self._random.random() < 0.1:
            found.append(Fault(code=429, reason="TooManyRequests", retry_after_s=1))
            found.append(Fault(is_silent=True))
        if request.method == "PUT" or request.path.endswith(("/pods", "/binding")):
            found += [Fault(code=409, reason="Conflict")] * 2
        return found


@dataclass
class FaultProxy:
    """One proxy in a thread of its own; see the top of the module.

    Attributes:
        address: HOST:PORT of the API server.
        ca_file: Certificate that signed the server's.
        choose: Decides what happens to a request.
        on_applied: Called when the server has answered a write, before the client hears of it.
        on_answered: Called when that answer was sent on.
    """

    address: str
    ca_file: Path
    choose: Choose = lambda request: NONE
    on_applied: Hook = lambda write: None
    on_answered: Hook = lambda write: None
    writes: list[Write] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> FaultProxy:
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))
        self._loop = asyncio.new_event_loop()
        self._count = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="proxy", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def kubeconfig(self, original: Path, path: Path) -> Path:
        """A copy of a kubeconfig that leads through the proxy."""
        config = yaml.safe_load(original.read_text())
        for one in config["clusters"]:
            one["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path.write_text(yaml.safe_dump(config))
        return path

    def forget_writes(self) -> None:
        """Count from 1 again."""
        self.writes, self._count = [], 0

    def cut_all(self) -> None:
        """Break all connections that are open now, as a router that restarts does."""
        self._loop.call_soon_threadsafe(self._cut_all)

    def _cut_all(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        server.close()
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("expected to run in a task")
        self._handlers.add(task)
        self._connections.add(writer)
        line = _Line(self, reader, writer)
        try:
            await line.serve()
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            pass
        finally:
            line.close()
            self._connections.discard(writer)
            self._handlers.discard(task)

    def note(self, request: Request) -> Write | None:
        """Write it down, when it is a write."""
        if request.method == "GET":
            return None
        self._count += request.is_counted
        write = Write(request, self._count if request.is_counted else 0)
        self.writes.append(write)
        return write

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to the API server."""
        host, _, port = self.address.partition(":")
        return await asyncio.open_connection(host, int(port), ssl=self._tls, limit=HEAD_BYTES_MAX)


class _Line:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(
        self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Close both sides."""
        self._writer.close()
        if self._server is not None:
            self._server[1].close()

    async def serve(self) -> None:
        """Pass on one request after another until a side closes or a fault ends it."""
        goes_on = True
        while goes_on:
            head = await self._reader.readuntil(b"\r\n\r\n")
            headers = _headers_of(head)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            url = urlsplit(target)
            digest = hashlib.blake2b(body, digest_size=8).hexdigest()
            request = Request(method, url.path, url.query, digest)
            goes_on = await self._handle(request, head, body)

    async def _handle(self, request: Request, head: bytes, body: bytes) -> bool:
        """Carry out one request with its fault; whether the connection goes on."""
        fault = self._proxy.choose(request)
        write = self._proxy.note(request)
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.is_silent:
            await self._reader.read()
            return False
        if fault.is_lost:
            self._writer.transport.abort()
            return False
        if fault.code:
            await self._refuse(fault)
            return True
        if self._server is None:
            self._server = await self._proxy.connect()
        self._server[1].write(_without_encodings(head) + body)
        await self._server[1].drain()
        if request.is_watch:
            return await self._relay_watch(self._server[0], fault)
        return await self._relay_answer(self._server[0], fault, write)

    async def _refuse(self, fault: Fault) -> None:
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "made up by the fault proxy",
            "reason": fault.reason,
            "code": fault.code,
        }
        after = f"Retry-After: {fault.retry_after_s}\r\n" if fault.retry_after_s else ""
        await self._answer(fault.code, json.dumps(status).encode(), after)

    async def _answer(self, code: int, body: bytes, more: str = "") -> None:
        head = f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\n{more}"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()

    async def _relay_answer(
        self, server: asyncio.StreamReader, fault: Fault, write: Write | None
    ) -> bool:
        code, headers = await _read_head(server)
        body = b"".join([part async for part in _parts(server, headers)])
        if write is not None:
            write.code = code
            self._proxy.on_applied(write)
        if fault.drops_answer:
            self._writer.transport.abort()
            return False
        after = headers.get("retry-after")
        await self._answer(code, body, f"Retry-After: {after}\r\n" if after else "")
        if write is not None:
            write.is_answered = True
            self._proxy.on_answered(write)
        return True

    async def _relay_watch(self, server: asyncio.StreamReader, fault: Fault) -> bool:
        """Pass events on until a side ends it; a client sends nothing during a watch."""
        relaying = asyncio.ensure_future(self._relay_events(server, fault))
        leaving = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait((relaying, leaving), return_when=asyncio.FIRST_COMPLETED)
            return False
        finally:
            for task in (relaying, leaving):
                task.cancel()
            await asyncio.gather(relaying, leaving, return_exceptions=True)

    async def _relay_events(self, server: asyncio.StreamReader, fault: Fault) -> None:
        code, headers = await _read_head(server)
        if "chunked" not in headers.get("transfer-encoding", ""):
            body = b"".join([part async for part in _parts(server, headers)])
            await self._answer(code, body, "Connection: close\r\n")
            return
        head = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._writer.write(f"HTTP/1.1 {code} X\r\n{head}".encode())
        passed = 0
        async for part in _parts(server, headers):
            if fault.cut and passed >= fault.cut_after:
                await self._cut(part, fault.cut)
                return
            passed += part.count(b"\n")
            self._chunk(part)
            await self._writer.drain()
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def _cut(self, part: bytes, how: str) -> None:
        if how == "silent":
            await asyncio.Event().wait()
        if how == "gone":
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            self._chunk(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        else:
            self._chunk(part[: max(1, len(part) // 2)])
        if how != "line":
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def _chunk(self, part: bytes) -> None:
        self._writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")


def _headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _without_encodings(head: bytes) -> bytes:
    """The head without Accept-Encoding, so that answers come as they are."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(one for one in lines if not one.lower().startswith(b"accept-encoding"))


async def _read_head(server: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = await server.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), _headers_of(head)


async def _parts(server: asyncio.StreamReader, headers: dict[str, str]) -> Any:
    """The body as it comes."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        yield await server.readexactly(int(headers.get("content-length", 0)))
        return
    while size := int((await server.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await server.readexactly(size)
        await server.readexactly(2)
    await server.readuntil(b"\r\n")
