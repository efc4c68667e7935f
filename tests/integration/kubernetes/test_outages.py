"""The API server restarts, forgets old versions, or is there and silent."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.controlplane.proxies import NONE, Fault, Request
from tests.controlplane.rigs import Rig
from tests.controlplane.workloads import mixed

pytestmark = [pytest.mark.needs_controlplane, pytest.mark.slow, pytest.mark.timeout(300)]

OUTAGE_S_MAX = 40.0
"""An API server takes so long to come back on a busy machine, and nobody can write meanwhile."""


class Once:
    """Tends a controller, and does something once after a while."""

    def __init__(self, tend: Callable[[], None], act: Callable[[], None], after_s: float) -> None:
        self._tend = tend
        self._act: Callable[[], None] | None = act
        self._due_s = time.monotonic() + after_s

    def tend(self) -> None:
        """Called all the time."""
        self._tend()
        if self._act is not None and time.monotonic() >= self._due_s:
            act, self._act = self._act, None
            act()


def run_with(rig: Rig, act: Callable[[], None], after_s: float, seed: int) -> list[str]:
    """A run in which something is done once; the breaches."""
    controller = rig.controller()
    work = mixed(rig.new_namespace(), seed)
    controller.start()
    try:
        tend = Once(controller.tend, act, after_s).tend
        return rig.run(work, tend, disturb_s=1.0, partial_s_max=OUTAGE_S_MAX)
    finally:
        controller.stop()
        rig.clean(work.namespace)


@pytest.mark.parametrize("after_s", [0.5, 1.2])
def test_the_api_server_restarts(rig: Rig, after_s: float) -> None:
    assert run_with(rig, rig.restart_apiserver, after_s, seed=101) == []


def test_etcd_forgets_the_version_that_a_watch_goes_on_from(rig: Rig) -> None:
    def forget() -> None:
        rig.proxy.cut_all()
        rig.restart_apiserver(rig.plane.compact)

    assert run_with(rig, forget, 0.7, seed=102) == []


@pytest.mark.parametrize("kind", ["pods", "mljobs", "nodes"])
def test_a_watch_goes_half_open(rig: Rig, kind: str) -> None:
    """Three watches of a kind fall silent; what they hide is found all the same."""
    watches = 0

    def choose(request: Request) -> Fault:
        nonlocal watches
        if request.is_watch and request.path.endswith(f"/{kind}"):
            watches += 1
            return Fault(cut_after=10, cut="silent") if watches <= 3 else NONE
        return NONE

    rig.proxy.choose = choose
    assert run_with(rig, lambda: None, 0.0, seed=103) == []


def test_the_api_server_takes_requests_and_does_not_answer(rig: Rig) -> None:
    """For some seconds nothing comes back, also for the lease: whoever leads then must end."""

    def fall_silent() -> None:
        until_s = time.monotonic() + 3
        rig.proxy.choose = lambda request: (
            Fault(is_silent=True) if time.monotonic() < until_s else NONE
        )

    assert run_with(rig, fall_silent, 0.6, seed=104) == []
