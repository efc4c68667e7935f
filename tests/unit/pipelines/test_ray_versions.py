"""Versions of Ray that cannot be kept to this machine are refused, before anything is started."""

from __future__ import annotations

from typing import Any

import pytest

from mlsched.errors import ConfigError
from mlsched_pipelines.engines.ray import stay_local

ray: Any = pytest.importorskip("ray", reason="mlsched[ray] is not installed")


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray in this process is put back after each test."""
    monkeypatch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", True)
    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        monkeypatch.setattr(ray._private.node.Node, name, print)
    monkeypatch.setattr(ray._private.node.Node, "_webui_url", None, raising=False)


def test_this_version_is_known() -> None:
    stay_local(ray)
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER is False


@pytest.mark.parametrize("version", ["2.9.3", "2.51.1", "1.13.0"])
def test_a_version_without_tokens_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", version)
    with pytest.raises(ConfigError, match=rf"2\.52 to 2\.60, found {version}.*without a token"):
        stay_local(ray)


@pytest.mark.parametrize("name", ["start_api_server", "start_monitor", "start_log_monitor"])
def test_a_version_that_starts_otherwise_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "__version__", "3.1.0.dev0")
    monkeypatch.delattr(ray._private.node.Node, name)
    with pytest.raises(ConfigError, match=rf"found 3\.1\.0\.dev0: it has no Node\.{name}") as found:
        stay_local(ray)
    assert "ray>=2.52,<=2.60" in found.value.hint
