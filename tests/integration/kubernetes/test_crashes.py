"""kill -9 of the controller after each of its writes: nothing is started twice, lost or left."""

from __future__ import annotations

import pytest

from tests.controlplane.proxies import Write
from tests.controlplane.rigs import Rig
from tests.controlplane.spawned import Controller
from tests.controlplane.workloads import small

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow, pytest.mark.timeout(300)]

WRITES = 36
"""About so many writes has a run without a crash."""
PARTS = 4


class Assassin:
    """Kills a controller at one of its writes: before the client hears of it, or just after."""

    def __init__(self, rig: Rig, controller: Controller, number: int, moment: str) -> None:
        self._controller = controller
        self._number = number
        self.has_struck = False
        setattr(rig.proxy, moment, self.strike)

    def strike(self, write: Write) -> None:
        """Called by the proxy."""
        if write.number == self._number and not self.has_struck:
            self.has_struck = True
            self._controller.kill()


def run_once(rig: Rig, number: int, moment: str) -> tuple[list[str], bool]:
    """A run with a crash at one write; the breaches, and whether it came so far."""
    controller = rig.controller()
    rig.proxy.forget_writes()
    assassin = Assassin(rig, controller, number, moment)
    work = small(rig.new_namespace())
    controller.start()
    try:
        found = rig.run(work, controller.tend, disturb_s=5.0, awaited="victim")
    finally:
        controller.stop()
        rig.clean(work.namespace)
    return [f"{line} [write {number} {moment}]" for line in found], assassin.has_struck


def test_a_run_without_a_crash_has_as_many_writes_as_are_tried(rig: Rig) -> None:
    found, _ = run_once(rig, 0, "on_answered")
    counted = [write.number for write in rig.proxy.writes if write.number]
    assert not found, "\n".join(found)
    assert len(counted) >= WRITES // 2, counted


@pytest.mark.parametrize("part", range(PARTS))
def test_a_crash_after_any_write_loses_nothing(rig: Rig, part: int) -> None:
    found: list[str] = []
    struck = 0
    for number in range(1 + part, WRITES + 1, PARTS):
        moment = "on_applied" if number // PARTS % 2 else "on_answered"
        breaches, has_struck = run_once(rig, number, moment)
        found += breaches
        struck += has_struck
    assert not found, "\n".join(found)
    assert struck >= WRITES // PARTS // 2
