"""The Python API in this process, against the real service in a home of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlsched.api.client import Client
from mlsched.config import Paths
from mlsched.errors import MlschedError


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh installation for each file of tests; its service ends with them."""
    path = tmp_path_factory.mktemp("home")
    runtime = path / "run"
    runtime.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "STATE", "CACHE", "DATA"):
            patch.delenv(f"XDG_{name}_HOME", raising=False)
        patch.setenv("HOME", str(path))
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        patch.chdir(path)
        yield path
        _stop(Client(Paths.from_environment(), autostart=False))


def _stop(client: Client) -> None:
    with contextlib.suppress(MlschedError):
        names = [job["name"] for job in client.call("list", all=False)["jobs"]]
        if names:
            client.call("cancel", jobs=names, grace_s=0)
        client.call("stop")
        end = time.monotonic() + 10
        while client.is_running() and time.monotonic() < end:
            time.sleep(0.05)
