"""Clusters of Ray that others run: their tokens and versions; and a variable that means none."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlsched.errors import ConfigError, UnreachableError
from mlsched_pipelines import Call
from mlsched_pipelines.starting import start_engine
from tests.integration.pipelines.test_engine_processes import (
    collect,
    find_ports,
    list_children,
    list_listeners,
    running,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TOKEN = "5e" * 32

OTHER_PYARROW = """
from importlib import metadata

version = metadata.version
metadata.version = lambda name: "1.0" if name == "pyarrow" else version(name)
"""

OTHER_RAY = """
import sys
from types import ModuleType

sys.modules["ray._version"] = ModuleType("ray._version")
sys.modules["ray._version"].version, sys.modules["ray._version"].commit = "2.52.0", "other"
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without settings of Ray."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as path:
        yield Path(path)


@contextmanager
def a_cluster(folder: Path, **env: str) -> Iterator[tuple[str, str]]:
    """A cluster of two CPUs; its addresses for a driver and for a client."""
    port, client_port = find_ports()
    command = f"start --head --block --node-ip-address 127.0.0.1 --port {port} --num-cpus 2"
    options = f"--ray-client-server-port {client_port} --include-dashboard false"
    start = [sys.executable, "-m", "ray.scripts.scripts", *command.split(), *options.split()]
    with running(*start, "--temp-dir", str(folder / "r"), folder=folder, **env):
        wait_for(lambda: "Ray runtime started" in (folder / "log").read_text())
        yield f"127.0.0.1:{port}", f"ray://127.0.0.1:{client_port}"


def test_a_cluster_with_a_token_takes_in_who_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_cluster(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as (driver, client):
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        for address, variable in ((client, ""), ("", driver)):
            monkeypatch.setenv("RAY_ADDRESS", variable)
            with pytest.raises(ConfigError, match=r"authentication token"):
                start_engine(address or "ray")
        monkeypatch.delenv("RAY_ADDRESS")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
        with pytest.raises(UnreachableError, match="No Ray cluster answers") as found:
            start_engine(client)
        assert "RAY_AUTH_TOKEN" in found.value.hint
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with start_engine(client) as engine:
            engine.submit(Call("t", lambda a, b: a + b, engine.put_ref(10), 1))
            assert collect(engine, 1)["t"].value == 11


def test_a_cluster_with_other_versions_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in (("pyarrow", OTHER_PYARROW), ("ray", OTHER_RAY)):
        (folder / name).mkdir()
        (folder / name / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with a_cluster(folder, PYTHONPATH=str(folder / "pyarrow")) as (driver, client):
        monkeypatch.setenv("RAY_ADDRESS", driver)
        with pytest.raises(ConfigError, match=r"has pyarrow 1\.0, here it is"):
            start_engine("ray")
        monkeypatch.delenv("RAY_ADDRESS")
        monkeypatch.setenv("PYTHONPATH", str(folder / "ray"))
        with pytest.raises(ConfigError, match=r"Ray: 2\.52\.0"):
            start_engine(client)


def test_a_variable_that_says_local_means_a_cluster_of_our_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    others = list_children()
    with start_engine("ray", workers=1, memory_max_bytes=1 << 30) as engine:
        # The object store has its share first: a worker ends itself above what is told here.
        assert engine.worker_memory_max_bytes == int(0.9 * (1 << 30)) + 1
        listeners = list_listeners(list_children() - others)
        assert {address.removeprefix("::ffff:") for address in listeners} == {"127.0.0.1"}
    assert list(folder.iterdir()) == []
