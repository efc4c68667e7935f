"""Fixtures on a real control plane; a conftest.py imports the ones that its folder uses.

Tests that use ``plane`` or ``kwok_plane`` are marked ``needs_controlplane``, those that use
``real_nodes`` are marked ``needs_nodes``. The planes live as long as the worker process, so a test
makes a namespace of its own, by ``new_namespace``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane
from tests.controlplane.rigs import Rig, rigged

_COUNTER = itertools.count(1)


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A control plane with a controller manager and no nodes."""
    with ControlPlane(controller_manager=True) as started:
        yield started


@pytest.fixture(scope="session")
def kwok_plane() -> Iterator[Kwok]:
    """A control plane, as ``kwok_plane.plane``, on which KWOK plays the nodes one adds."""
    with ControlPlane(controller_manager=True, lifted=True) as started:
        yield Kwok(started)


@pytest.fixture(scope="session")
def real_nodes() -> Iterator[Nodes]:
    """A control plane, as ``real_nodes.plane``, with the real nodes node-a and node-b."""
    with ControlPlane(controller_manager=True) as started:
        nodes = Nodes(started)
        for name in ("node-a", "node-b"):
            nodes.add(name)
        yield nodes


@pytest.fixture
def new_namespace() -> Iterator[Callable[[ControlPlane], str]]:
    """Make a namespace of the test's own on a plane; it is deleted after the test.

    Its pods go at once: what they hold of the nodes is what the next test may need.
    """
    made: list[tuple[ControlPlane, str]] = []

    def make(where: ControlPlane) -> str:
        name = where.create_namespace(f"test-{next(_COUNTER)}")
        made.append((where, name))
        return name

    yield make
    for where, name in made:
        where.api("DELETE", f"/api/v1/namespaces/{name}/pods?gracePeriodSeconds=1")
        where.api("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """A control plane on four fake nodes behind a proxy that breaks things, with its judge."""
    with rigged() as ready:
        yield ready
