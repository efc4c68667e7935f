"""The control planes that tests of this folder share."""

from __future__ import annotations

from tests.controlplane.fixtures import kwok_plane, new_namespace, plane, real_nodes

__all__ = ["kwok_plane", "new_namespace", "plane", "real_nodes"]
