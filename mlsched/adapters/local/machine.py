"""What this machine can give to jobs, without its GPUs: CPUs, memory and a name.

Bounds that somebody set on us (affinity, control groups) count: a job gets no more than we have.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from mlsched.adapters.local.supervisor.limits import list_own_directories
from mlsched.model.nodes import Node

NAME_CHARACTERS_MAX = 63
"""As in a DNS label, so that the name is legal as a Kubernetes label as well."""

MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")


def observe_machine() -> Node:
    """This machine as a node without devices. Reads a few files of /proc and /sys; about 1 ms."""
    bounds = [_total_memory_bytes(), *_memory_bounds()]
    return Node(
        name=legal_name(socket.gethostname()),
        milli_cpus=min([len(os.sched_getaffinity(0)) * 1000, *_cpu_bounds()]),
        memory_bytes=min(bounds),
    )


def legal_name(hostname: str) -> str:
    """A host name as a DNS label: lower case letters, digits and dashes; ``local`` for nothing."""
    label = re.sub(r"[^a-z0-9-]+", "-", hostname.partition(".")[0].lower())
    return label[:NAME_CHARACTERS_MAX].strip("-") or "local"


def _total_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_bounds() -> Iterator[int]:
    for directory in (*list_own_directories(""), *list_own_directories("memory")):
        for name in MEMORY_FILES:
            text = _read(f"{directory}/{name}")
            if text.isdecimal() and int(text) > 0:
                yield int(text)


def _cpu_bounds() -> Iterator[int]:
    """CPU quotas of our groups, rounded down to 0.1 of a CPU, at least that."""
    for directory in list_own_directories(""):
        quota, _, period = _read(f"{directory}/cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield _milli_cpus(int(quota), int(period))
    for directory in list_own_directories("cpu"):
        quota, period = (_read(f"{directory}/cpu.cfs_{what}_us") for what in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():
            yield _milli_cpus(int(quota), int(period))


def _milli_cpus(quota_us: int, period_us: int) -> int:
    return max(100, quota_us * 1000 // period_us // 100 * 100)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
