"""The socket: bad requests, and clients that are slow, silent or gone."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mlsched.server import sockets
from mlsched.server.sockets import SocketServer

Scenario = Callable[["Bench"], Awaitable[None]]


class Bench:
    """A server, what it complained of, and what the loop heard of errors that nobody took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bugs: list[str] = []
        self.unheard: list[str] = []
        self.left = asyncio.Event()
        self.server = SocketServer({"echo": self.echo}, {"count": self.count}, self.bugs.append)

    async def echo(self, args: Mapping[str, Any]) -> Any:
        return dict(args)

    async def count(self, args: Mapping[str, Any]) -> AsyncIterator[Any]:
        try:
            number = 0
            while True:
                yield {"event": number}
                number += 1
                await asyncio.sleep(0)
        finally:
            self.left.set()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            yield reader, writer
        finally:
            writer.close()

    async def idle(self) -> None:
        """Wait until no client is served."""
        while self.server.connections:
            await asyncio.sleep(0)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], Bench]:
    """Run a scenario against a server that listens; it must have no client in the end."""

    async def run(scenario: Scenario) -> Bench:
        bench = Bench(tmp_path / "s.sock")
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, told: bench.unheard.append(told["message"]))
        await bench.server.start(bench.path)
        async with asyncio.timeout(20):
            await scenario(bench)
            await bench.idle()
        await bench.server.close()
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        return bench

    return lambda scenario: asyncio.run(run(scenario))


async def ask(bench: Bench, line: bytes) -> Any:
    async with bench.client() as (reader, writer):
        writer.write(line)
        return json.loads(await reader.readline())


def test_a_request_is_answered(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        assert await ask(bench, b'{"op": "echo", "args": {"a": 1}}\n') == {"ok": {"a": 1}}

    assert play(scenario).bugs == []


@pytest.mark.parametrize(
    "line",
    [b"[]\n", b'{"op": "echo", "args": {"a": "\xff"}}\n', b'{"op": "\xff"}\n', b"[" * 9999 + b"\n"],
    ids=["no object", "no UTF-8", "no UTF-8 in the name", "deep"],
)
def test_a_request_that_is_none_is_the_fault_of_who_sent_it(play: Any, line: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await ask(bench, line))["error"]["code"] == "InvalidSpec"

    assert play(scenario).bugs == []


def test_a_client_that_leaves_without_having_read_all_is_no_error(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.client() as (reader, writer):
            writer.write(b'{"op": "count"}\n')
            await reader.readline()
        await bench.left.wait()

    bench = play(scenario)
    assert (bench.bugs, bench.unheard) == ([], [])


@pytest.mark.parametrize("begun", [b"", b'{"op": "echo"'], ids=["nothing", "half a request"])
def test_a_client_that_does_not_ask_is_not_waited_for(
    play: Any, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(sockets, "REQUEST_S_MAX", 0, raising=False)

    async def scenario(bench: Bench) -> None:
        async with bench.client() as (reader, writer):
            writer.write(begun)
            assert await reader.read() == b""
            await bench.idle()

    assert play(scenario).bugs == []


def test_a_client_that_does_not_read_is_left(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "ANSWER_S_MAX", 0, raising=False)

    async def scenario(bench: Bench) -> None:
        async with bench.client() as (_, writer):
            writer.write(b'{"op": "count"}\n')
            await bench.left.wait()
            await bench.idle()

    bench = play(scenario)
    assert (bench.bugs, bench.unheard) == ([], [])
