"""The checks of ``mlsched doctor``: each looks at one thing and says what it found."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from mlsched.api.interfaces import AnyClient
from mlsched.api.layering import default_flags
from mlsched.config import load_settings
from mlsched.errors import MlschedError
from mlsched.units import format_bytes
from mlsched.version import __version__

C = TypeVar("C")

PYTHON_MIN = (3, 11)
DISK_WARN_BYTES = 1 << 30
"""Less than what one job's logs may take."""
CLOCK_WARN_S = 2.0


class Check(Struct, frozen=True):
    """What one check found."""

    name: str
    state: str
    """``ok``, ``warn`` or ``fail``."""
    told: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """As ``-o json`` has it."""
        return {"name": self.name, "state": self.state, "found": self.told, "advice": self.advice}


def run_checks(client: AnyClient) -> list[Check]:
    """All checks; one that raises is a failed one, never the end of the others."""
    return [guard(name, look, client) for name, look in CHECKS]


def guard(name: str, look: Callable[[C], Check], client: C) -> Check:
    """What a check found; one that raises has failed."""
    try:
        return look(client)
    except MlschedError as error:
        return Check(name, "fail", error.message, error.hint)
    except Exception as error:  # noqa: BLE001 - a broken machine is what this is for
        return Check(name, "fail", f"{type(error).__name__}: {error}")


def check_python(client: AnyClient) -> Check:
    """Whether this Python is new enough."""
    told = f"Python {platform.python_version()} at {sys.executable}, mlsched {__version__}"
    if sys.version_info < PYTHON_MIN:
        return Check("python", "fail", told, "mlsched needs Python 3.11 or later.")
    return Check("python", "ok", told)


def check_settings(client: AnyClient) -> Check:
    """Whether config.toml can be read."""
    path = client.paths.config_file
    default_flags(load_settings(path).defaults)
    return Check("settings", "ok", str(path) if path.exists() else f"{path} (none: defaults)")


def _state_dir(client: AnyClient) -> Check:
    client.paths.create()
    path = client.paths.state_dir
    mode = stat.S_IMODE(path.stat().st_mode)
    return Check("state directory", "ok", f"{path}, mode {mode:03o}, writable")


def _disk(client: AnyClient) -> Check:
    free = shutil.disk_usage(client.paths.state_dir).free
    told = f"{format_bytes(free)} free for state and logs"
    least = load_settings(client.paths.config_file).service.free_bytes_min
    if free < least:
        return Check("disk", "fail", told, f"New jobs need {format_bytes(least)}: free some.")
    if free < DISK_WARN_BYTES:
        return Check("disk", "warn", told, "The logs of one job may take 1 GiB: free some.")
    return Check("disk", "ok", told)


def _sqlite(client: AnyClient) -> Check:
    from importlib.metadata import version

    return Check("sqlite", "ok", f"SQLite {version('apsw').rpartition('.')[0]}, inside apsw")


def _service(client: AnyClient) -> Check:
    found = client.call("ping")
    told = f"process {found['pid']}, version {found['version']}, {found['jobs_active']} jobs"
    if found["version"] != __version__:
        return Check("service", "warn", told, "Run 'mlsched server stop'; the next is this one.")
    return Check("service", "ok", told)


def _node(client: AnyClient) -> Check:
    found = client.call("node")
    cpus, memory = found["milli_cpus"] / 1000, format_bytes(found["memory_bytes"])
    return Check("machine", "ok", f"{found['name']}: {cpus:g} CPUs, {memory}")


def _cgroups(client: AnyClient) -> Check:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        own = root / _own_cgroup().lstrip("/")
        if os.access(own, os.W_OK):
            return Check("limits", "ok", f"cgroup v2, may be divided at {own}")
        return Check(
            "limits", "warn", "cgroup v2, not ours to divide: memory is watched instead",
            "Run in a delegated slice: systemd-run --user --scope -p Delegate=yes ...",
        )  # fmt: skip
    if (root / "memory").is_dir():
        state = "ok" if os.access(root / "memory", os.W_OK) else "warn"
        told = "cgroup v1" + ("" if state == "ok" else ", not writable: memory is watched instead")
        return Check("limits", state, told)
    return Check("limits", "warn", "no cgroups: memory is watched instead")


def _own_cgroup() -> str:
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def _gpus(client: AnyClient) -> Check:
    found = client.call("gpus")
    devices: list[dict[str, Any]] = found["node"]["devices"]
    bad = [one["uuid"] for one in devices if not one["healthy"]]
    if bad:
        told = f"{len(devices)} GPUs, {len(bad)} not healthy: {', '.join(bad)}"
        return Check("gpus", "warn", told, "Run 'mlsched gpus' to see the reasons.")
    if not devices:
        return Check("gpus", "ok", str(found["note"] or "no GPU: CPU jobs only"))
    return Check("gpus", "ok", f"{len(devices)} GPUs, all healthy")


def _clock(client: AnyClient) -> Check:
    """The service's clock is this machine's: a start in the future tells that it was set back."""
    started = datetime.fromisoformat(client.call("ping")["started_at"])
    ahead_s = started.timestamp() - time.time()
    if ahead_s > CLOCK_WARN_S:
        told = f"the service started {ahead_s:.0f} s in the future: the clock was set back"
        return Check("clock", "warn", told, "Times in the history will look odd; durations do not.")
    return Check("clock", "ok", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


CHECKS: tuple[tuple[str, Callable[[AnyClient], Check]], ...] = (
    ("python", check_python),
    ("settings", check_settings),
    ("state directory", _state_dir),
    ("disk", _disk),
    ("sqlite", _sqlite),
    ("service", _service),
    ("machine", _node),
    ("limits", _cgroups),
    ("gpus", _gpus),
    ("clock", _clock),
)
