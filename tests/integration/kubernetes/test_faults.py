"""Random faults between the controller and the API server, with crashes and pauses among them."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.controlplane.proxies import NONE, RandomFaults
from tests.controlplane.rigs import Rig
from tests.controlplane.spawned import Controller, blunders
from tests.controlplane.workloads import mixed

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow, pytest.mark.timeout(400)]

RUNS = 48
PARTS = 6
RATES = (0.05, 0.15, 0.3)
"""Of requests that something happens to; a seed has one of them."""


class Mayhem:
    """Restarts a controller that has ended, and now and then kills or stops one that has not."""

    def __init__(self, controller: Controller, seed: int) -> None:
        self._controller = controller
        self._random = random.Random(seed)
        self._strikes = self._random.choice((0, 0, 1, 2))
        self._next_s = self._draw()
        self._paused_until_s = 0.0

    def _draw(self) -> float:
        return time.monotonic() + self._random.uniform(0.2, 1.5)

    def tend(self) -> None:
        """Called all the time."""
        now_s = time.monotonic()
        if self._paused_until_s:
            if now_s >= self._paused_until_s:
                self._paused_until_s = 0.0
                self._controller.send(signal.SIGCONT)
            return
        self._controller.tend()
        if self._strikes and now_s >= self._next_s:
            self._strikes -= 1
            self._next_s = self._draw()
            if self._random.random() < 0.6:
                self._controller.kill()
            else:
                self._controller.send(signal.SIGSTOP)
                self._paused_until_s = now_s + self._random.uniform(0.1, 2.0)


def run_once(rig: Rig, seed: int) -> list[str]:
    """One run with the faults of a seed; the breaches."""
    rig.proxy.forget_writes()
    rig.proxy.choose = RandomFaults(seed, RATES[seed % len(RATES)])
    controller = rig.controller()
    mayhem = Mayhem(controller, seed)
    work = mixed(rig.new_namespace(), seed)
    controller.start()
    try:
        found = rig.run(work, mayhem.tend, disturb_s=random.Random(seed).uniform(0.1, 1.2))
    finally:
        rig.proxy.choose = lambda request: NONE
        controller.send(signal.SIGCONT)
        controller.stop()
        rig.clean(work.namespace)
    found += blunders(controller.log)
    told = [f"the controller's log ended so:\n{controller.tail()}"] if found else []
    return [f"seed {seed}: {line}" for line in found + told]


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_doubled_or_left_whatever_fails(rig: Rig, part: int) -> None:
    found = [line for seed in range(part, RUNS, PARTS) for line in run_once(rig, seed)]
    assert not found, "\n".join(found)
