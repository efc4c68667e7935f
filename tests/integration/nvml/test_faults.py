"""Drivers that hang, crash or refuse to start: the reader ends in time and says what happened."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from mlsched.adapters.nvml import read_inventory, read_inventory_async
from mlsched.core.health import Verdict, assess
from mlsched.core.inventory import placeable_devices
from mlsched.model.inventory import ReadingStatus

pytestmark = pytest.mark.needs_gcc


def build_library(folder: Path, body: str) -> Path:
    """A library of the driver's name that does something while it is loaded."""
    folder.mkdir()
    source = folder / "odd.c"
    source.write_text(
        "#include <stdlib.h>\n#include <unistd.h>\n"
        f"__attribute__((constructor)) static void load(void) {{ {body} }}\n"
    )
    command = ["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source]
    subprocess.run(command, check=True)
    return folder


def test_one_gpu_that_hangs_is_unknown_and_the_others_are_read(driver, fake) -> None:
    driver.say(fake.machine(4), "sleep nvmlDeviceGetPowerUsage 2 60000")
    started = time.monotonic()
    inventory = driver.read(deadline_s=4.0)
    assert time.monotonic() - started < 4.0
    hung = inventory.gpus[2]
    assert hung.uuid == fake.uuid_of(2), "what it had answered before is kept"
    assert hung.environment.power_mw.status is ReadingStatus.TRANSIENT
    assert "nvmlDeviceGetPowerUsage did not return within" in hung.environment.power_mw.detail
    assert "nvmlDeviceGetPowerUsage" in inventory.note
    verdicts = [assess(gpu, (), inventory.taken_at_ms).verdict for gpu in inventory.gpus]
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.UNKNOWN, Verdict.PASS]


def test_a_gpu_that_hangs_at_its_first_call_keeps_its_device(driver, fake) -> None:
    driver.say(fake.machine(2))
    known = placeable_devices(driver.read(), 0)
    driver.say(fake.machine(2), "sleep nvmlDeviceGetHandleByIndex_v2 1 60000")
    inventory = driver.read(deadline_s=4.0)
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert [one.uuid for one in devices] == [one.uuid for one in known]
    assert [one.memory_bytes for one in devices] == [one.memory_bytes for one in known]
    assert [one.healthy for one in devices] == [True, False]


def test_a_driver_that_hangs_at_its_start_is_told_with_the_call(driver, fake) -> None:
    driver.say(fake.machine(2))
    before = driver.read()
    driver.say(fake.machine(2), "sleep nvmlInitWithFlags * 60000")
    inventory = driver.read(deadline_s=2.0)
    assert "nvmlInitWithFlags did not return within" in inventory.note
    assert [gpu.uuid for gpu in inventory.gpus] == [gpu.uuid for gpu in before.gpus]
    name = inventory.gpus[0].identity.name
    assert name.at_ms == before.gpus[0].identity.name.at_ms, "an old reading keeps its time"
    assert inventory.gpus[0].environment.temperature_c.status is ReadingStatus.TRANSIENT
    assert not any(one.healthy for one in placeable_devices(inventory, inventory.taken_at_ms))
    driver.say(fake.machine(2))
    inventory = driver.read()
    assert all(one.healthy for one in placeable_devices(inventory, inventory.taken_at_ms))


def test_a_library_that_hangs_while_it_is_loaded_is_killed(install, tmp_path) -> None:
    install(build_library(tmp_path / "hung", "pause();"))
    started = time.monotonic()
    inventory = read_inventory(deadline_s=1.0)
    assert time.monotonic() - started < 4.0
    assert "did not answer within 1 s" in inventory.note
    assert "last step: loading the driver library" in inventory.note


def test_a_library_that_crashes_its_process_is_a_note(install, tmp_path) -> None:
    install(build_library(tmp_path / "crash", "abort();"))
    inventory = read_inventory(deadline_s=10.0)
    assert "crashed its reader (signal 6), last step: loading the driver library" in inventory.note
    assert inventory.driver.value is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (18, "was upgraded"),
        (9, "is not loaded"),
        (4, "no permission"),
        (999, "unknown error"),
        (55, "NVML error 55"),
    ],
)
def test_a_driver_that_does_not_start_says_why_in_one_line(driver, fake, code, words) -> None:
    driver.say(fake.system_line(init=code), fake.gpu_line(0))
    inventory = driver.read()
    assert inventory.gpus == ()
    assert words in inventory.note
    assert inventory.note.endswith("CPU jobs only")
    assert inventory.driver.code == code
    assert "\n" not in inventory.note


def test_a_driver_that_does_not_count_is_told(driver, fake) -> None:
    driver.say(fake.machine(1), "fail nvmlDeviceGetCount_v2 * 999")
    inventory = driver.read()
    assert inventory.gpus == ()
    assert "does not count its GPUs" in inventory.note


def test_another_module_called_pynvml_is_found_out(driver, tmp_path, monkeypatch) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pynvml.py").write_text("def nvmlInit(): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    note = driver.read().note
    assert f"{tmp_path / 'other' / 'pynvml.py'} is not NVIDIA's nvidia-ml-py" in note
    assert "pip uninstall pynvml" in note


def test_a_file_in_the_working_directory_is_not_taken_for_the_binding(
    driver, tmp_path, monkeypatch
) -> None:
    (tmp_path / "pynvml.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert driver.read().note == ""


def test_the_event_loop_goes_on_while_gpus_are_read(driver, fake) -> None:
    driver.say(fake.machine(1), "sleep nvmlDeviceGetName 0 400")

    async def both() -> tuple[int, int]:
        ticks = 0
        reading = asyncio.create_task(read_inventory_async(10.0))
        while not reading.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, len((await reading).gpus)

    ticks, gpus = asyncio.run(both())
    assert gpus == 1
    assert ticks > 20


def test_a_reading_that_is_cancelled_leaves_no_child(driver, fake) -> None:
    driver.say(fake.machine(1), "sleep nvmlInitWithFlags * 60000")

    def children() -> set[str]:
        listed = subprocess.run(
            ["ps", "-o", "args=", "--ppid", str(os.getpid())],
            capture_output=True,
            text=True,
            check=False,
        )
        return {line for line in listed.stdout.splitlines() if "nvml.probe" in line}

    async def cancel() -> None:
        reading = asyncio.create_task(read_inventory_async(30.0))
        deadline = time.monotonic() + 10
        while not children() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert children()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(cancel())
    assert not children()
