"""Facts of the machine that NVML does not tell, from files of the kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

_SIZE_MAX = 1 << 16
_PCI = "sys/bus/pci/devices"
_NVIDIA, _DISPLAY_CLASS = "0x10de", "0x03"


class Host(Protocol):
    """Where small files of the kernel are read."""

    def read_text(self, path: str) -> str | None:
        """What a file says; None when it cannot be read."""


class Machine:
    """This machine.

    Args:
        root: Another root directory than ``/``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read_text(self, path: str) -> str | None:
        """What a file says; None when it cannot be read."""
        try:
            with (self._root / path.lstrip("/")).open(encoding="utf-8", errors="replace") as file:
                return file.read(_SIZE_MAX)
        except OSError:
            return None


def numa_nodes(host: Host, bus_id: str) -> tuple[int, ...] | None:
    """NUMA nodes of a PCI device; empty when the machine has none, None when sysfs lacks it.

    Args:
        host: Where sysfs is.
        bus_id: As NVML writes it: ``00000000:1B:00.0``. The kernel's has four digits of domain.
    """
    found = re.fullmatch(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])", bus_id)
    if found is None:
        return None
    name = f"{int(found[1], 16):04x}:{found[2].lower()}"
    text = host.read_text(f"/{_PCI}/{name}/numa_node")
    if text is None or not re.fullmatch(r"-?\d+", text.strip()):
        return None
    node = int(text)
    return () if node < 0 else (node,)


def count_nvidia_devices(root: Path = Path("/")) -> int:
    """NVIDIA graphics devices on the PCI bus, whether a driver runs them or not."""
    machine = Machine(root)
    try:
        names = sorted(path.name for path in (root / _PCI).iterdir())
    except OSError:
        return 0

    def starts(name: str, file: str, text: str) -> bool:
        return (machine.read_text(f"{_PCI}/{name}/{file}") or "").startswith(text)

    nvidia = [name for name in names if starts(name, "vendor", _NVIDIA)]
    return sum(1 for name in nvidia if starts(name, "class", _DISPLAY_CLASS))
