"""Two controllers: one is stopped across its lease, or what it sent arrives after its lease."""

from __future__ import annotations

import signal
import time

import pytest

from tests.controlplane.laws import broken, without_late_pods
from tests.controlplane.proxies import NONE, Fault, Request, Write
from tests.controlplane.rigs import Rig
from tests.controlplane.spawned import LEASE_S, Controller
from tests.controlplane.workloads import small

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow, pytest.mark.timeout(300)]

WRITES = (1, 2, 4, 6, 9, 12, 16, 20)
"""At which of its writes something happens to the leader."""


class Frozen:
    """Stops the leader when one of its writes is answered, until another has led for a while.

    Where nobody leads at that write, it is the next one: a slow machine may cost a lease.
    """

    def __init__(self, rig: Rig, pair: list[Controller], number: int) -> None:
        self._rig = rig
        self._pair = pair
        self._number = number
        self._wakes_s = 0.0
        self.stopped = 0
        rig.proxy.on_applied = self.strike

    def strike(self, write: Write) -> None:
        """Called by the proxy: whoever writes is the leader."""
        if write.number >= self._number and not self.stopped:
            pid = self._rig.leader()
            leader = next((one for one in self._pair if one.pid == pid), None)
            if leader is not None:
                self.stopped = leader.pid
                leader.send(signal.SIGSTOP)
                self._wakes_s = time.monotonic() + 2 * LEASE_S

    def tend(self) -> None:
        """Called all the time."""
        for one in self._pair:
            if one.pid != self.stopped:
                one.tend()
            elif self._wakes_s and time.monotonic() >= self._wakes_s:
                self._wakes_s = 0.0
                one.send(signal.SIGCONT)
            elif not self._wakes_s:
                one.tend()


@pytest.mark.parametrize("number", WRITES)
def test_a_leader_that_slept_across_its_lease_does_no_harm(rig: Rig, number: int) -> None:
    rig.proxy.forget_writes()
    pair = [rig.controller(), rig.controller()]
    frozen = Frozen(rig, pair, number)
    work = small(rig.new_namespace())
    for one in pair:
        one.start()
    try:
        found = rig.run(work, frozen.tend, disturb_s=1.0, awaited="victim")
        rig.wait(lambda: all(one.pid != frozen.stopped for one in pair), frozen.tend, 3 * LEASE_S)
    finally:
        for one in pair:
            one.send(signal.SIGCONT)
            one.stop()
        rig.clean(work.namespace)
    assert not found, "\n".join(found)
    assert frozen.stopped, "no leader was stopped"
    assert any(one.ends and one.ends[0] > 0 for one in pair), "the one that slept went on"


@pytest.mark.parametrize("number", WRITES)
def test_a_write_that_arrives_after_the_lease_does_no_harm(rig: Rig, number: int) -> None:
    """Its sender is dead, and another controller has led for a while."""
    controller = rig.controller()
    count = 0

    def choose(request: Request) -> Fault:
        nonlocal count
        count += request.is_counted
        if request.is_counted and count == number:
            controller.kill()
            return Fault(delay_s=2.5 * LEASE_S)
        return NONE

    rig.proxy.forget_writes()
    rig.proxy.choose = choose
    work = small(rig.new_namespace())
    controller.start()
    try:
        rig.run(work, controller.tend, disturb_s=1.0, awaited="victim")
        rig.wait(lambda: False, controller.tend, 1.5 * LEASE_S)
        rig.wait(lambda: rig.is_quiet(work.namespace), controller.tend, 10)
        history = without_late_pods(rig.history(work.namespace))
        found = broken(history, work.expected, rig.nodes, work.gangs)
    finally:
        controller.stop()
        rig.clean(work.namespace)
    assert not found, "\n".join(found)
    assert controller.starts > 1
