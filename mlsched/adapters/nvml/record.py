"""``python -m mlsched.adapters.nvml.record``: read all GPUs once and print the recording of it.

A child process for the same reasons as `mlsched.adapters.nvml.probe`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

import msgspec

from mlsched.adapters.nvml.bindings import LIBRARY, describe_binding, has_library, load_binding
from mlsched.adapters.nvml.doors import SystemClock
from mlsched.adapters.nvml.guards import Guard
from mlsched.adapters.nvml.hosts import Machine
from mlsched.adapters.nvml.inventories import Session, read_inventory
from mlsched.adapters.nvml.probe import CALL_S, EXIT_NO_LIBRARY, report
from mlsched.adapters.nvml.recordings import Recorder, Recording, RecordingHost, installed
from mlsched.adapters.nvml.scrubbing import scrub
from mlsched.version import __version__


def main(argv: list[str]) -> int:
    """Print the recording as JSON, without what identifies the machine.

    Args:
        argv: Seconds for everything together.
    """
    if not has_library():
        return EXIT_NO_LIBRARY
    nvml = load_binding()
    binding = describe_binding(nvml).partition(" (")[0]
    recording = Recording(taken_at_ms=time.time_ns() // 1_000_000, version=__version__)
    recording.binding = binding
    recorder = Recorder(ctypes.CDLL(LIBRARY), recording)
    host = RecordingHost(Machine(), recording)
    with installed(nvml, recorder):
        guard = Guard(CALL_S, float(argv[0]) if argv else 60.0)
        read_inventory(Session(nvml, SystemClock(), host, guard, "nvml", report))
    scrub(recording)
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(recording), indent=1))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
