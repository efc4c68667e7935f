"""The socket: one request a connection, newline-delimited JSON, this user only.

-> {"op": NAME, "args": {...}, "version": 1}
<- {"event": ITEM}     any number, for operations that stream
<- {"ok": RESULT}      or {"error": {"code", "message", "hint"}}, then the connection ends
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlsched.errors import ConfigError, MlschedError, SpecError

PROTOCOL_VERSION = 1
REQUEST_BYTES_MAX = 4 << 20
"""More than any spec, its environment and its script may have together."""

REQUEST_S_MAX = 30.0
"""From the connection to the whole request: a client asks at once."""

ANSWER_S_MAX = 60.0
"""How long a client may read nothing while more waits for it. One that was suspended finds the
connection closed when it goes on, and asks again."""

ANY_VERSION = frozenset({"ping", "stop"})
"""Answered to clients of any version, so that an old service can be told to go."""

Operation = Callable[[Mapping[str, Any]], Awaitable[Any]]
Stream = Callable[[Mapping[str, Any]], AsyncIterator[Any]]


class Request(msgspec.Struct, frozen=True):
    """One request line."""

    op: str
    args: dict[str, Any] = {}
    version: int = PROTOCOL_VERSION


_decode_request = msgspec.json.Decoder(Request).decode


class SocketServer:
    """Serves operations on a Unix socket of mode 0600.

    Args:
        operations: By name; each takes the arguments and returns the result.
        streams: By name; each yields events, the last of which is the result.
        on_bug: Called with a traceback when an operation raised what it must not.
    """

    def __init__(
        self,
        operations: Mapping[str, Operation],
        streams: Mapping[str, Stream],
        on_bug: Callable[[str], None],
    ) -> None:
        self._operations = operations
        self._streams = streams
        self._on_bug = on_bug
        self._server: asyncio.Server | None = None
        self.connections = 0
        """Clients that are being served now."""

    async def start(self, path: Path) -> None:
        """Listen; a socket left behind by a dead service is replaced.

        The caller holds the lock of the state directory, so no other service can own the path.
        """
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, path=str(path), limit=REQUEST_BYTES_MAX, backlog=1024
            )
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Stop listening; requests that are being served may finish for a moment."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError):
                await self._answer(reader, writer)
        finally:
            self.connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read_request(reader)
            _check_peer(writer.get_extra_info("socket"))
            if request is None:
                return
            if request.op in self._streams:
                await self._stream(request, reader, writer)
            else:
                await _send(writer, {"ok": await self._operation(request)})
        except MlschedError as error:
            await _send(writer, {"error": error.to_dict()})
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the edge of the process: a bug must not end the service
            self._on_bug(traceback.format_exc())
            bug = MlschedError("a bug of mlsched stopped this request.", "See the service log.")
            await _send(writer, {"error": bug.to_dict()})

    async def _operation(self, request: Request) -> Any:
        operation = self._operations.get(request.op)
        if operation is None:
            raise SpecError(f"the service has no operation {request.op[:40]!r}.")
        return await operation(request.args)

    async def _stream(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send events until the stream ends or the client has left."""
        gone = asyncio.ensure_future(reader.read(1))
        events = self._streams[request.op](request.args).__aiter__()
        try:
            while True:
                coming = asyncio.ensure_future(anext(events, None))
                await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    return
                line = coming.result()
                if line is None:
                    return
                await _send(writer, line)
        finally:
            gone.cancel()


def _check_peer(connection: socket.socket) -> None:
    """Refuse other users; asked once the request was read, since closing before resets it."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", found)
    if uid != os.getuid():
        raise ConfigError(f"this service belongs to user {os.getuid()}, and you are {uid}.")


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    except asyncio.LimitOverrunError as error:
        raise SpecError(
            f"the request has more than {REQUEST_BYTES_MAX} bytes.",
            "Put large data into a file and name it in the command.",
        ) from error
    try:
        request = _decode_request(line)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the request is not what the protocol asks for: {error}.") from error
    if request.version != PROTOCOL_VERSION and request.op not in ANY_VERSION:
        raise ConfigError(
            f"the service speaks version {PROTOCOL_VERSION}, the client {request.version}.",
            "Run 'mlsched server stop' and try again: jobs go on.",
        )
    return request


async def _send(writer: asyncio.StreamWriter, line: Any) -> None:
    writer.write(msgspec.json.encode(line) + b"\n")
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            await writer.drain()
    except TimeoutError as error:
        writer.transport.abort()
        raise ConnectionAbortedError("the client does not read") from error
