"""What all tests share: which optional groups ran, and a home directory of one's own."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler.loadscope import LoadScopeScheduling

from tests.controlplane import binaries, nodes, ray_clusters
from tests.storage import ceph

# How long an example takes says more about the machine than about us.
settings.register_profile(
    "untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")

GROUPS = (
    "needs_gcc",
    "needs_shared",
    "needs_root",
    "needs_controlplane",
    "needs_nodes",
    "needs_plugins",
    "needs_ray",
    "needs_ceph",
    "slow",
)
ROOT = Path(__file__).parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
SHARED = ROOT.parent / "shared"


def _missing(marker: str) -> str | None:
    """Why tests of a group cannot run here; None when they can."""
    if marker == "needs_gcc" and shutil.which("gcc") is None:
        return "gcc is not installed"
    if marker == "needs_shared" and not SHARED.is_dir():
        return f"the public data is not there: {SHARED}"
    if marker == "needs_root" and os.geteuid() != 0:
        return "mounting file systems and writing cgroups needs root"
    if marker == "needs_controlplane":
        return binaries.missing("etcd", "kube-apiserver", "kube-controller-manager", "kwok")
    if marker == "needs_plugins":
        from tests.controlplane.plugins import kubelet_apis

        return kubelet_apis.missing()
    if marker == "needs_ray":
        return ray_clusters.missing()
    if marker == "needs_ceph":
        return ceph.missing()
    return nodes.missing() if marker == "needs_nodes" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, with the reason; refuse to skip what CI says it has."""
    required = os.environ.get("MLSCHED_TESTS_REQUIRE", "").split()
    for marker in GROUPS:
        marked = [item for item in items if item.get_closest_marker(marker)]
        is_required = marker.removeprefix("needs_") in required
        reason = _missing(marker) if marked or is_required else None
        if reason is None:
            continue
        if is_required:
            raise pytest.UsageError(f"MLSCHED_TESTS_REQUIRE wants {marker}, but {reason}")
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


class NodesTogether(LoadScopeScheduling):
    """Real nodes are large: one worker process starts them, and runs all tests on them.

    Every other test is a unit of its own.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "nodes" if _needs_nodes(nodeid.partition("::")[0]) else nodeid


@cache
def _needs_nodes(path: str) -> bool:
    """Only names of tests reach the process that shares them out, so their files are looked at."""
    return "mark.needs_nodes" in (ROOT / path).read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> NodesTogether:
    """How xdist shares the tests out."""
    return NodesTogether(config, log)


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remember the groups of each test for the summary, also across worker processes."""
    if call.when == "setup":
        groups = [name for name in GROUPS if item.get_closest_marker(name)]
        item.user_properties.append(("groups", groups))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which groups ran, so that a skipped one is seen."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for key, groups in getattr(report, "user_properties", []):
                if key == "groups" and (report.when == "call" or outcome == "skipped"):
                    counts.update((group, outcome) for group in groups)
    told = [
        f"{group}: " + ", ".join(f"{counts[group, o]} {o}" for o in ("passed", "failed", "skipped"))
        for group in GROUPS
    ]
    terminalreporter.write_line("groups  " + " | ".join(told))
