"""Says when so many pods of a namespace first had a node: a program of its own, so that whoever
creates the pods does not keep it from reading.

An API server ends the watch of a client that reads too slowly; it is begun again, with what
happened meanwhile, so that no pod is missed. Prints the seconds of the monotonic clock at which the
first and the last was seen, as JSON, and "ready" before.

    TOKEN=... python tests/perf/bind_watch.py URL COUNT
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import aiohttp


async def watch(url: str, count: int) -> list[float]:
    """The times at which the first pod and the last of ``count`` were first seen with a node."""
    times: list[float] = []
    bound: set[bytes] = set()
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    connector = aiohttp.TCPConnector(ssl=False)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        while len(bound) < count:
            params = {"watch": "1", "resourceVersion": "0"}
            async with session.get(
                url, params=params, timeout=timeout, read_bufsize=1 << 24
            ) as got:
                tell_ready()
                await _read(got, count, bound, times)
    return [times[0], times[-1]]


async def _read(
    answer: aiohttp.ClientResponse, count: int, bound: set[bytes], times: list[float]
) -> None:
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        now = time.monotonic()
        for line in lines:
            if b'"nodeName":"' not in line:
                continue
            name = line.partition(b'"metadata":{"name":"')[2].partition(b'"')[0]
            if name not in bound:
                bound.add(name)
                times.append(now)
        if len(bound) >= count:
            return


def tell_ready() -> None:
    """The watch has begun."""
    print("ready", flush=True)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(watch(sys.argv[1], int(sys.argv[2])))))
