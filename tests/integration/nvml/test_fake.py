"""The fake library holds what its users rely on: one lock, bounds, and errors that are seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.needs_gcc

TWO_THREADS = """
import os, threading, pynvml
from pathlib import Path
pynvml.nvmlInit()
state, lines = Path(os.environ["FAKE_NVML"]), Path(os.environ["FAKE_NVML"]).read_text()
handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(8)]
events = pynvml.nvmlEventSetCreate()
for one in handles:
    pynvml.nvmlDeviceRegisterEvents(one, 8, events)
found = []
def wait():
    while len(found) < 60:
        found.append(pynvml.nvmlEventSetWait_v2(events, 20000).eventData)
thread = threading.Thread(target=wait)
thread.start()
for turn in range(60):
    new = state.with_suffix(".turn")
    new.write_text(lines + "".join(f"xid {n % 8} {n}\\n" for n in range(turn + 1)))
    new.replace(state)
    for number, one in enumerate(handles):
        assert pynvml.nvmlDeviceGetTemperature(one, 0) == 29 + number
thread.join()
assert found == list(range(60)), found
print("held")
"""


def test_a_thread_that_waits_for_events_and_one_that_reads_do_not_disturb_each_other(
    driver,
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", TWO_THREADS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("held\n", "")


@pytest.mark.parametrize(
    "line",
    [
        "gpu 16 uuid=a",
        "gpu 0 novalue",
        "gpu 0 name=" + "x" * 200,
        "mig 0 7 uuid=a",
        "nvlink 0 36 1 2",
        "fail nvmlInit_v2 17 3",
        "frobnicate 1",
        "\n".join(["proc 0 1 1 0 0"] * 33),
        "\n".join(["xid 0 1"] * 65),
        "\n".join(["fail nvmlX * 3"] * 65),
    ],
)
def test_a_statement_that_is_wrong_or_too_much_fails_loudly(driver, fake, line) -> None:
    driver.say(fake.machine(1), line)
    inventory = driver.read()
    assert inventory.gpus == ()
    assert "unknown error" in inventory.note
