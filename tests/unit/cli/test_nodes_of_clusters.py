"""Words of the commands that run inside a cluster."""

from __future__ import annotations

import pytest

from mlsched.cli.controller import read_drivers
from mlsched.errors import SpecError


def test_drivers_are_added_to_those_that_are_known() -> None:
    found = read_drivers(["gpu.example.com", "other.example.com=gpus"])
    assert found["drivers"][-2:] == ("gpu.example.com", "other.example.com")
    assert "gpu.nvidia.com" in found["drivers"]
    assert found["device_classes"] == (("other.example.com", "gpus"),)
    assert read_drivers([])["device_classes"] == ()


@pytest.mark.parametrize("text", ["", "=gpus", "gpu.example.com="])
def test_a_driver_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="NAME or NAME=CLASS"):
        read_drivers([text])


def test_an_agent_must_know_its_node(run, monkeypatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    ended = run("agent")
    assert ended.code == 2
    assert "expected --node, or NODE_NAME" in ended.err
    assert "spec.nodeName" in ended.err


@pytest.mark.parametrize("seconds", ["0", "-1", "0.5", "nan", "inf", "1e9"])
def test_a_lease_lasts_between_a_second_and_an_hour(run, monkeypatch, seconds) -> None:
    """A Lease has whole seconds above 0: with less a controller would wait for ever."""
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    ended = run("controller", "--lease-seconds", seconds)
    assert ended.code == 2
    assert "--lease-seconds: expected 1 to 3600" in ended.err


@pytest.mark.parametrize("option", ["--period", "--heartbeat"])
def test_an_agent_looks_at_finite_times(run, monkeypatch, option) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    for seconds in ("nan", "inf", "0"):
        assert run("agent", "--node", "n", option, seconds).code == 2
