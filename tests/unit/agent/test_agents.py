"""When an agent publishes, and what it does while nobody takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes.apis import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.gpunodes import GpuNode, GpuNodeStatus
from mlsched.adapters.kubernetes.holders import HoldersError
from mlsched.adapters.kubernetes.objects import Metadata
from mlsched.agent import agents
from mlsched.agent.agents import Agent, AgentSettings
from mlsched.agent.reports import build_status
from mlsched.model.inventory import GpuEvent, Inventory
from tests.unit.inventories import inventory, ok

NOW_MS = agents._now_ms()
XID = GpuEvent(NOW_MS, "GPU-0", "xid", 79)


class Board:
    """A publisher that keeps what it takes; ``errors`` come first."""

    def __init__(self, before: GpuNodeStatus | None = None) -> None:
        self.before = before
        self.errors: list[Exception] = []
        self.taken: list[GpuNodeStatus] = []
        self.changed = asyncio.Event()

    async def read(self) -> GpuNode | None:
        if self.errors:
            raise self.errors.pop(0)
        return GpuNode(Metadata("node-a"), self.before) if self.before else None

    async def publish(self, status: GpuNodeStatus) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(status)
        self.changed.set()

    async def wait(self, count: int) -> GpuNodeStatus:
        while len(self.taken) < count:
            self.changed.clear()
            await self.changed.wait()
        return self.taken[-1]


class Machine:
    """What the agent reads, each reading when the test lets it."""

    def __init__(self) -> None:
        self.inventory = replace(inventory(2), taken_at_ms=NOW_MS)
        self.events: asyncio.Queue[GpuEvent] = asyncio.Queue()
        self.turns: asyncio.Queue[None] = asyncio.Queue()
        self.holders: dict[str, str] | HoldersError = {}
        self.looks = 0
        self.driverless = 0
        """So many times the machine has no driver to listen to."""
        self.refusals: list[OSError] = []
        """What comes first when somebody wants to listen."""

    async def read(self, deadline_s: float, previous: Inventory | None) -> Inventory:
        await self.turns.get()
        return self.inventory

    async def watch(self) -> AsyncIterator[GpuEvent]:
        if self.refusals:
            raise self.refusals.pop()
        if self.driverless:
            self.driverless -= 1
            return
        while True:
            yield await self.events.get()

    async def hold(self) -> dict[str, str]:
        self.looks += 1
        if isinstance(self.holders, HoldersError):
            raise self.holders
        return self.holders

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.turns.put_nowait(None)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run a scenario beside an agent; returns what the agent complained of."""

    def run(
        scenario: Any,
        board_of: Callable[[], Board] = Board,
        heartbeat_s: float = 99,
        prepare: Callable[[Machine], None] = lambda machine: None,
    ) -> Any:
        problems: list[str] = []

        async def act() -> None:
            machine, board, stop = Machine(), board_of(), asyncio.Event()
            prepare(machine)
            monkeypatch.setattr(agents, "read_inventory_async", machine.read)
            monkeypatch.setattr(agents, "watch_events", machine.watch)
            settings = AgentSettings(0, 1, heartbeat_s, 0, 0)
            agent = Agent(settings, board, machine.hold, "boot-1", problems.append)
            running = asyncio.create_task(agent.run(stop))
            await asyncio.wait_for(scenario(machine, board), 20)
            stop.set()
            await running

        asyncio.run(act())
        return problems

    return run


def test_the_first_reading_is_published_and_the_next_alike_is_not(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.look()
        await board.wait(1)
        machine.look(5)
        while machine.looks < 6:
            await asyncio.sleep(0)
        machine.holders = {"GPU-0": "team/a"}
        machine.look()
        assert (await board.wait(2)).holders == {"GPU-0": "team/a"}
        assert len(board.taken) == 2

    play(scenario)


def test_a_quiet_node_is_published_again_after_the_heartbeat(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.look()
        await board.wait(3)
        assert machine.looks == 1

    play(scenario, heartbeat_s=0.001)


def test_an_event_is_published_without_waiting_for_the_next_reading(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.look()
        await board.wait(1)
        machine.events.put_nowait(XID)
        found = await board.wait(2)
        assert found.summary.healthy == 1
        assert machine.looks == 1

    play(scenario)


def test_refusals_are_told_and_the_newest_state_is_published_afterwards(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        board.errors = [NoAnswerError("nobody there"), ApiError(500, "", "trouble")]
        machine.look()
        await board.wait(1)

    assert play(scenario) == ["nobody there", "trouble"]


def test_events_of_the_last_agent_are_known_before_the_first_publication(play: Any) -> None:
    def with_xid() -> Board:
        told = replace(inventory(2), events=(XID,))
        board = Board(build_status(told, {}, "boot-1", NOW_MS))
        board.errors = [NoAnswerError("nobody there")]
        return board

    async def scenario(machine: Machine, board: Board) -> None:
        machine.look()
        first = await board.wait(1)
        assert first.summary.healthy == 1
        assert first.inventory is not None
        assert first.inventory.events == (XID,)

    play(scenario, with_xid)


def test_a_kubelet_that_does_not_tell_is_a_note_and_no_end(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.holders = HoldersError("no socket")
        machine.look(2)
        assert (await board.wait(1)).summary.note == "no socket"
        machine.holders = {"GPU-1": "team/b"}
        machine.look()
        assert (await board.wait(2)).summary.note == ""

    assert play(scenario) == ["no socket", "the kubelet tells again who holds which GPU"]


def test_another_driver_is_worth_a_write(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.look()
        await board.wait(1)
        machine.inventory = replace(machine.inventory, driver=ok("590"))
        machine.look()
        assert (await board.wait(2)).summary.driver == "590"

    play(scenario)


def test_a_driver_that_is_installed_later_is_listened_to(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.driverless = 3
        machine.look()
        await board.wait(1)
        machine.events.put_nowait(XID)
        assert (await board.wait(2)).inventory.events == (XID,)

    play(scenario)


def test_a_node_that_cannot_start_the_listener_now_is_listened_to_later(play: Any) -> None:
    async def scenario(machine: Machine, board: Board) -> None:
        machine.look()
        await board.wait(1)
        machine.events.put_nowait(XID)
        assert (await board.wait(2)).inventory.events == (XID,)

    def refuse(machine: Machine) -> None:
        machine.refusals = [OSError("no process to spare")]

    play(scenario, prepare=refuse)


def test_a_proxy_that_asks_for_a_day_of_silence_is_asked_again_within_the_heartbeat(
    play: Any,
) -> None:
    """What is older than three heartbeats is not believed, and the server may be back soon."""

    async def scenario(machine: Machine, board: Board) -> None:
        board.errors = [ApiError(503, "", "maintenance", 86_400.0)]
        machine.look()
        await board.wait(1)

    assert play(scenario, heartbeat_s=0.001) == ["maintenance"]
