"""A port of another address of this machine, through which others reach a server of ours.

with forwarded("10.88.1.1", gateway.endpoint) as endpoint: ...
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16
END_S_MAX = 10.0


@contextmanager
def forwarded(address: str, endpoint: str) -> Iterator[str]:
    """The endpoint at an address that leads to another; connections are passed on as they are."""
    target = urlsplit(endpoint)
    begun: list[tuple[int, asyncio.AbstractEventLoop]] = []
    ready, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection(target.hostname, target.port)
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))

        server = await asyncio.start_server(pass_on, address, 0)
        begun.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop()))
        ready.set()
        await ended.wait()
        server.close()

    # Connections that clients keep open are cut when the loop ends.
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(END_S_MAX), f"nothing listens at {address}"
    port, loop = begun[0]
    try:
        yield f"{target.scheme}://{address}:{port}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(END_S_MAX)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES):
                sink.write(chunk)
                await sink.drain()
    finally:
        sink.close()
