"""The control planes that tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane import controllers
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.fixtures import kwok_plane, new_namespace, plane, real_nodes, rig
from tests.controlplane.nodes import Nodes

__all__ = ["kwok_plane", "new_namespace", "plane", "real_nodes", "rig"]


@pytest.fixture(scope="session")
def scheduled_nodes(real_nodes: Nodes) -> Iterator[Nodes]:
    """The real nodes, scheduled by mlsched; node-a and node-b are of layer data."""
    for name in ("node-a", "node-b"):
        labels = {"mlsched.io/layer": "data"}
        controllers.label(real_nodes.plane, f"/api/v1/nodes/{name}", labels)
    controllers.install(real_nodes.plane)
    controller = controllers.start(real_nodes.plane)
    yield real_nodes
    assert controller.stop(10) == 0, controller.tail()


@pytest.fixture(scope="session")
def scheduled_kwok(kwok_plane: Kwok) -> Iterator[Kwok]:
    """Eight fake nodes with GPUs and two of layer data, scheduled by mlsched."""
    kwok_plane.add_nodes(8, gpus=8)
    kwok_plane.add_nodes(2, gpus=0, labels={"mlsched.io/layer": "data"}, prefix="data-")
    controllers.install(kwok_plane.plane)
    controller = controllers.start(kwok_plane.plane)
    yield kwok_plane
    assert controller.stop(10) == 0, controller.tail()
