"""``python -m mlsched.adapters.nvml.probe``: read all GPUs once, print one JSON document, end.

Runs as a child of `mlsched.adapters.nvml.probes`, because a driver can hang or crash its caller.
Standard error carries what is done next, one line each. Ends by `os._exit`: a thread that hangs in
the driver would keep the interpreter from ending.
"""

from __future__ import annotations

import os
import sys

from mlsched.adapters.nvml.bindings import has_library

EXIT_NO_LIBRARY = 69
"""EX_UNAVAILABLE of sysexits.h: there is no driver library."""

CALL_S = 3.0
"""How long one call may take. The slowest known ones take 5 ms; driver start-up takes seconds."""


def main(argv: list[str]) -> int:
    """Read the inventory and print it.

    Args:
        argv: Seconds for everything together, and for one call.
    """
    report("loading the driver library")
    if not has_library():
        return EXIT_NO_LIBRARY
    total_s = float(argv[0]) if argv else 10.0
    call_s = float(argv[1]) if argv[1:] else CALL_S

    import msgspec

    from mlsched.adapters.nvml.bindings import BindingError, load_binding
    from mlsched.adapters.nvml.doors import SystemClock
    from mlsched.adapters.nvml.guards import Guard
    from mlsched.adapters.nvml.hosts import Machine
    from mlsched.adapters.nvml.inventories import Session, empty_inventory, read_inventory

    clock = SystemClock()
    try:
        nvml = load_binding()
    except BindingError as error:
        inventory = empty_inventory(f"{error.message} {error.hint}", clock.now_ms())
    else:
        guard = Guard(call_s, total_s)
        inventory = read_inventory(Session(nvml, clock, Machine(), guard, "nvml", report))
    sys.stdout.buffer.write(msgspec.json.encode(inventory))
    sys.stdout.buffer.flush()
    return 0


def report(step: str) -> None:
    """Say what is done next, before it is done."""
    sys.stderr.write(f"{step}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
