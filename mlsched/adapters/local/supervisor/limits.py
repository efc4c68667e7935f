"""Bounds on memory and CPUs: a control group where one may be made, else a watch.

Source: the kernel's cgroup-v2 and cgroup-v1/memory documents; cgroups(7).
"""

# pathlib costs more to import than all of the supervisor's own code.
# ruff: noqa: PTH102, PTH106, PTH112, PTH120, PTH123
from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD_US = 100_000
"""Over which a CPU quota counts: the kernel's default."""

QUOTA_US_MIN = 1_000
"""The kernel refuses less."""

REMOVE_TRIES = 20
REMOVE_DELAY_S = 0.01
"""A group can be busy for a moment after its last process was reaped."""

V1_LIMIT = "memory.limit_in_bytes"
V1_LIMIT_SWAP = "memory.memsw.limit_in_bytes"


class Limits:
    """What bounds one attempt. Attributes ``memory`` and ``cpus`` say what enforces each.

    Args:
        memory_bytes: 0 for no bound.
        milli_cpus: 0 for no bound.
        use_groups: False to use no control groups at all.
    """

    def __init__(self, name: str, memory_bytes: int, milli_cpus: int, use_groups: bool) -> None:
        self.memory = "watch" if memory_bytes else "none"
        self.cpus = "none"
        self.directories: list[str] = []
        self._events = ""
        if not use_groups:
            return
        mounts, own = _mounts(), _own_groups()
        if not self._use_v2(name, memory_bytes, milli_cpus, mounts, own):
            self._use_v1(name, memory_bytes, milli_cpus, mounts, own)

    def _use_v2(
        self,
        name: str,
        memory_bytes: int,
        milli_cpus: int,
        mounts: dict[str, tuple[str, str]],
        own: dict[str, str],
    ) -> bool:
        wanted = {"memory.max": memory_bytes, "cpu.max": milli_cpus}
        wanted = {file: bound for file, bound in wanted.items() if bound}
        if not wanted or "" not in mounts or "" not in own:
            return False
        for parent in _upwards(*mounts[""], own[""]):
            made = _make_v2(f"{parent}/{name}", wanted)
            if made is None:
                continue
            self.directories.append(f"{parent}/{name}")
            if "memory.max" in made:
                self.memory = "cgroup v2"
                self._events = f"{parent}/{name}/memory.events"
            if "cpu.max" in made:
                self.cpus = "cgroup v2"
            return True
        return False

    def _use_v1(
        self,
        name: str,
        memory_bytes: int,
        milli_cpus: int,
        mounts: dict[str, tuple[str, str]],
        own: dict[str, str],
    ) -> None:
        bounds = {V1_LIMIT: str(memory_bytes), V1_LIMIT_SWAP: str(memory_bytes)}
        if memory_bytes and (directory := _make_v1("memory", name, bounds, mounts, own)):
            self.directories.append(directory)
            self.memory = "cgroup v1"
            self._events = f"{directory}/memory.oom_control"
        quota = str(_quota_us(milli_cpus))
        bounds = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": quota}
        if milli_cpus and (directory := _make_v1("cpu", name, bounds, mounts, own)):
            self.directories.append(directory)
            self.cpus = "cgroup v1"

    def join(self) -> None:
        """Put the calling process into the groups.

        Raises:
            OSError: a group is gone.
        """
        for directory in self.directories:
            _write(f"{directory}/cgroup.procs", "0")

    def out_of_memory_kills(self) -> int:
        """How many processes the kernel has killed for the bound on memory."""
        for line in _read(self._events).splitlines() if self._events else ():
            key, _, count = line.partition(" ")
            if key == "oom_kill":
                return int(count)
        return 0

    def remove(self) -> None:
        """Remove the groups, once nothing runs in them."""
        for directory in self.directories:
            remove_group(directory)


def prepare() -> None:
    """Let a child move into the group that it is in already, and do not wait for it.

    The first move after a while waits for every CPU, about 15 ms; moves soon after it do not. So
    the wait goes on while the rest of the supervisor is imported.
    """
    if os.environ.get("MLSCHED_NO_CGROUPS"):
        return
    mounts = _mounts()
    for controller, path in _own_groups().items():
        directory = next(_upwards(*mounts[controller], path), "") if controller in mounts else ""
        if os.access(f"{directory}/cgroup.procs", os.W_OK):
            if os.fork() == 0:
                os._exit(_try_write(f"{directory}/cgroup.procs", "0"))
            return


def remove_group(directory: str) -> bool:
    """Remove a group and the groups that a job made below it; False when one is in use."""
    for _ in range(REMOVE_TRIES):
        for path, _, _ in os.walk(directory, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                break
        if not os.path.isdir(directory):
            return True
        time.sleep(REMOVE_DELAY_S)
    return False


def list_own_directories(controller: str) -> list[str]:
    """Our own group of a controller and those above it; the empty name is version 2."""
    mounts, own = _mounts(), _own_groups()
    if controller not in mounts or controller not in own:
        return []
    return list(_upwards(*mounts[controller], own[controller]))


def list_members(directory: str) -> set[int]:
    """Ids of the processes in a group and in the groups below it."""
    found: set[int] = set()
    for path, _, _ in os.walk(directory):
        found.update(int(pid) for pid in _read(f"{path}/cgroup.procs").split())
    return found


def _make_v2(directory: str, wanted: dict[str, int]) -> set[str] | None:
    """Make a group with as many of the bounds as can be; None when with none of them."""
    parent = os.path.dirname(directory)
    if not os.access(parent, os.W_OK) or not os.access(f"{parent}/cgroup.procs", os.W_OK):
        return None
    for file in wanted:
        _try_write(f"{parent}/cgroup.subtree_control", f"+{file.partition('.')[0]}")
    try:
        os.mkdir(directory)
    except OSError:
        return None
    made = set()
    for file, bound in wanted.items():
        text = f"{_quota_us(bound)} {PERIOD_US}" if file == "cpu.max" else str(bound)
        if _try_write(f"{directory}/{file}", text):
            made.add(file)
    if "memory.max" in made:
        _try_write(f"{directory}/memory.swap.max", "0")
        _try_write(f"{directory}/memory.oom.group", "1")
    if not made or not _can_join(directory):
        remove_group(directory)
        return None
    return made


def _make_v1(
    controller: str,
    name: str,
    bounds: dict[str, str],
    mounts: dict[str, tuple[str, str]],
    own: dict[str, str],
) -> str | None:
    """Make a group below our own for one controller; None when that is not allowed."""
    if controller not in mounts or controller not in own:
        return None
    parent = next(_upwards(*mounts[controller], own[controller]), None)
    if parent is None or not os.access(parent, os.W_OK):
        return None
    directory = f"{parent}/{name}"
    try:
        os.mkdir(directory)
    except OSError:
        return None
    optional = {V1_LIMIT_SWAP}
    done = [_try_write(f"{directory}/{file}", text) for file, text in bounds.items()]
    needed = (ok for ok, file in zip(done, bounds, strict=True) if file not in optional)
    if all(needed) and _can_join(directory):
        return directory
    remove_group(directory)
    return None


def _can_join(directory: str) -> bool:
    """Whether our children may enter a group; a child tries, since only the kernel knows."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _try_write(f"{directory}/cgroup.procs", "0") else 1)
    return os.waitpid(pid, 0)[1] == 0


def _quota_us(milli_cpus: int) -> int:
    return max(QUOTA_US_MIN, milli_cpus * PERIOD_US // 1000)


def _mounts() -> dict[str, tuple[str, str]]:
    """Mount point and root of each hierarchy, by controller; version 2 under the empty name."""
    found: dict[str, tuple[str, str]] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if kind[0] == "cgroup2":
            found.setdefault("", (fields[4], fields[3]))
        elif kind[0] == "cgroup":
            for controller in kind[2].split(","):
                found.setdefault(controller, (fields[4], fields[3]))
    return found


def _own_groups() -> dict[str, str]:
    """Path of our own group by controller; version 2 under the empty name."""
    found = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _upwards(mount: str, root: str, path: str) -> Iterator[str]:
    """Directories of a group and of those above it, as far as they can be seen here."""
    if ".." in path:
        return
    if root != "/" and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    path = path.rstrip("/")
    while path:
        yield mount + path
        path = path.rpartition("/")[0]
    yield mount


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _try_write(path: str, text: str) -> bool:
    try:
        _write(path, text)
    except OSError:
        return False
    return True
