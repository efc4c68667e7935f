"""The control planes that tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controlplane import charts, controllers
from tests.controlplane.fake_nodes import Kwok
from tests.controlplane.fixtures import kwok_plane, new_namespace, plane, real_nodes, rig
from tests.controlplane.nodes import Nodes
from tests.controlplane.planes import ControlPlane

__all__ = ["kwok_plane", "new_namespace", "plane", "real_nodes", "rig"]


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Helm chart, with its CRDs."""
    return charts.complete(tmp_path_factory.mktemp("chart"))


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
def scheduled_kwok() -> Iterator[Kwok]:
    """Eight fake nodes with GPUs and two of layer data on a plane of their own, scheduled."""
    with ControlPlane(controller_manager=True, lifted=True) as started:
        kwok = Kwok(started)
        kwok.add_nodes(8, gpus=8)
        kwok.add_nodes(2, gpus=0, labels={"mlsched.io/layer": "data"}, prefix="data-")
        controllers.install(started)
        controller = controllers.start(started)
        yield kwok
        assert controller.stop(10) == 0, controller.tail()
