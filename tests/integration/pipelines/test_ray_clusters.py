"""Clusters of Ray that others run: their tokens and versions; and a variable that means none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mlsched.errors import ConfigError, UnreachableError
from mlsched_pipelines import Call
from mlsched_pipelines.starting import start_engine
from tests.integration.pipelines.test_engine_processes import (
    check_lost,
    collect,
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


CONNECTED = """
import sys
import ray
from mlsched_pipelines import Call
from mlsched_pipelines.starting import start_engine

ray.init(address=sys.argv[1], log_to_driver=False)
job = ray.get_runtime_context().get_job_id()
get_job = lambda shared, argument: __import__("ray").get_runtime_context().get_job_id()
with start_engine("ray", workers=1) as engine:
    assert engine.slots == 1
    engine.submit(Call("t", get_job, engine.put_ref(None), None))
    (outcome,) = engine.wait_any(60)
    assert outcome.value == job, outcome
assert ray.is_initialized()
print("used")
"""

DIES_ONCE = """
import os, sys

if "specific-server" in " ".join(sys.orig_argv):
    try:
        os.close(os.open(os.environ["DIED"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        os._exit(1)
"""
"""Makes the first process die that a cluster of Ray starts to serve a client."""


class Cluster(NamedTuple):
    """A cluster of two CPUs: its addresses for a driver and for a client, and its process."""

    driver: str
    client: str
    process: subprocess.Popen[str]


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


def find_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def a_cluster(folder: Path, **env: str) -> Iterator[Cluster]:
    """A cluster that runs in a directory."""
    port, client_port = find_ports()
    command = f"start --head --block --node-ip-address 127.0.0.1 --port {port} --num-cpus 2"
    options = f"--ray-client-server-port {client_port} --include-dashboard false"
    start = [sys.executable, "-m", "ray.scripts.scripts", *command.split(), *options.split()]
    with running(*start, "--temp-dir", str(folder / "r"), folder=folder, **env) as process:
        wait_for(lambda: "Ray runtime started" in (folder / "log").read_text())
        yield Cluster(f"127.0.0.1:{port}", f"ray://127.0.0.1:{client_port}", process)


@pytest.mark.parametrize("how", ["client", "variable"])
def test_an_existing_ray_cluster_is_used_and_its_loss_told(
    how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A token of the user would make Ray ask for it, wherever there is one.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (folder / "sitecustomize.py").write_text(DIES_ONCE)
    env = {"PYTHONPATH": str(folder), "DIED": str(folder / "died")}
    # How long Ray waits for the process that died; others need some seconds to begin.
    env["RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S"] = "15"
    with a_cluster(folder, **env) as cluster:
        if how == "variable":
            monkeypatch.setenv("RAY_ADDRESS", cluster.driver)
            program = [sys.executable, "-c", CONNECTED, cluster.driver]
            done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
            assert done.stdout == "used\n", done.stderr
        with start_engine("ray" if how == "variable" else cluster.client) as engine:
            assert engine.slots == 2
            engine.submit(Call("t", lambda a, b: a + b, engine.put_ref(10), 1))
            assert collect(engine, 1)["t"].value == 11
            assert (folder / "died").exists() == (how == "client")
            check_lost(engine, folder, cluster.process)


def test_a_cluster_with_a_token_takes_in_who_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_cluster(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as (driver, client, _):
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
    with a_cluster(folder, PYTHONPATH=str(folder / "pyarrow")) as (driver, client, _):
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
