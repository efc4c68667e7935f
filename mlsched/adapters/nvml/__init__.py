"""NVIDIA GPUs through NVML: read them, watch their events, record and replay them.

The driver is only ever loaded by child processes. Names are imported when they are used: the child
that finds no driver ends before it has imported anything else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlsched.adapters.nvml.probes import read_inventory, read_inventory_async
    from mlsched.adapters.nvml.watches import watch_events

_HOMES = {
    "read_inventory": "probes",
    "read_inventory_async": "probes",
    "watch_events": "watches",
}

__all__ = ["read_inventory", "read_inventory_async", "watch_events"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
