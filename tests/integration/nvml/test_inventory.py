"""The inventory through the real nvidia-ml-py, on a driver that is as it should be or odd."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from mlsched.adapters.nvml import read_inventory
from mlsched.core.health import Verdict, assess
from mlsched.core.inventory import placeable_devices
from mlsched.model.inventory import Gpu, Inventory, ReadingStatus

pytestmark = pytest.mark.needs_gcc

SHARED = Path(__file__).parents[4] / "shared"
MIB = 1 << 20


def verdict(inventory: Inventory, gpu: Gpu) -> Verdict:
    return assess(gpu, inventory.events, inventory.taken_at_ms).verdict


def test_eight_gpus_are_read_and_can_be_given(driver, fake) -> None:
    inventory = driver.read()
    assert inventory.note == ""
    assert [gpu.uuid for gpu in inventory.gpus] == [fake.uuid_of(n) for n in range(8)]
    assert (inventory.driver.value, inventory.cuda.value) == ("580.105.08", "13.0")
    gpu = inventory.gpus[3]
    assert gpu.identity.name.value == "NVIDIA H100 80GB HBM3"
    assert gpu.identity.pci_bus_id.value == fake.bus_of(3)
    assert gpu.identity.architecture.value == "Hopper"
    assert gpu.identity.compute_capability.value == "9.0"
    assert gpu.memory.total_bytes.value == 81559 * MIB
    assert gpu.memory.reserved_bytes.value == 480 * MIB
    assert gpu.memory.used_bytes.value == 0
    assert gpu.environment.temperature_c.value == 32
    assert gpu.environment.power_mw.value == 68920
    assert gpu.faults.recovery_action.value == 0
    assert [verdict(inventory, one) for one in inventory.gpus] == [Verdict.PASS] * 8
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert [device.uuid for device in devices] == [fake.uuid_of(n) for n in range(8)]
    assert all(device.healthy for device in devices)
    assert inventory.calls.count > 500


def test_every_reading_has_a_time_and_none_without_a_value_says_ok(driver) -> None:
    gpu = driver.read().gpus[0]
    for part in (gpu.identity, gpu.memory, gpu.load, gpu.environment, gpu.faults, gpu.fabric):
        for name in part.__struct_fields__:
            reading = getattr(part, name)
            if name == "kind":
                continue
            assert reading.at_ms > 1_600_000_000_000, name
            assert reading.is_ok == (reading.value is not None), name


def test_nvlinks_and_paths_between_gpus(driver, fake) -> None:
    driver.say(fake.machine(4), "p2p 0 1 0 5", "topo 0 1 30")
    lines = driver.state.read_text().splitlines()
    driver.say([line for line in lines if line not in ("p2p 1 0 0 0", "topo 1 0 40")])
    links = driver.read().gpus[0].links
    assert len(links.nvlinks) == 18
    assert links.nvlinks[0].remote_kind.value == "switch"
    assert links.nvlinks[0].remote_bus_id.value == "00000000:05:00.0"
    first = links.peers[0]
    assert first.uuid == fake.uuid_of(1)
    assert first.ancestor.value == "hostbridge"
    assert first.read.value == "not supported", "near is one thing, direct access another"
    assert first.write.value == "ok"
    assert links.peers[1].read.value == "ok"


def test_the_bindings_constant_for_p2p_reads_is_a_trap_that_we_do_not_use(driver) -> None:
    pynvml = pytest.importorskip("pynvml")
    assert pynvml.NVML_P2P_CAPS_INDEX_READ == (0,), "mended: the guard is no longer needed"
    assert driver.read().gpus[0].links.peers[0].read.is_ok


def test_a_lost_gpu_leaves_seven(driver, fake) -> None:
    driver.say(fake.machine(8), "fail * 3 15")
    inventory = driver.read()
    assert len(inventory.gpus) == 8
    lost = inventory.gpus[3]
    assert lost.uuid == "index-3"
    assert lost.identity.uuid.status is ReadingStatus.LOST
    assert lost.environment.temperature_c.value is None
    assert verdict(inventory, lost) is Verdict.CRITICAL
    others = [gpu for gpu in inventory.gpus if gpu is not lost]
    assert {verdict(inventory, gpu) for gpu in others} == {Verdict.PASS}
    assert all(len(gpu.links.peers) == 6 for gpu in others)
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert [device.uuid for device in devices] == [fake.uuid_of(n) for n in range(8) if n != 3]


def test_a_gpu_that_gets_lost_keeps_its_name_and_gets_no_jobs(driver, fake) -> None:
    driver.read()
    driver.say(fake.machine(8), "fail * 3 15")
    inventory = driver.read()
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert [device.uuid for device in devices] == [fake.uuid_of(n) for n in range(8)]
    assert [device.healthy for device in devices].index(False) == 3
    assert "does not answer" in devices[3].health_reason
    assert devices[3].memory_bytes == 81559 * MIB


def test_mig_instances_behind_an_empty_slot_are_found(driver, fake) -> None:
    mig = {"mig": "1/1", "util": None}
    driver.say(
        fake.system_line(),
        fake.gpu_line(0, **mig),
        fake.gpu_line(1),
        fake.mig_line(0, 0),
        fake.mig_line(0, 3, name="NVIDIA_H100_80GB_HBM3_MIG_3g.40gb", mem=40448, gi=2),
    )
    inventory = driver.read()
    instances = inventory.gpus[0].mig.instances
    assert [(one.slot, one.profile.value) for one in instances] == [(0, "1g.10gb"), (3, "3g.40gb")]
    assert instances[1].gpu_instance_id.value == 2
    assert instances[1].memory.total_bytes.value == 40448 * MIB
    assert inventory.gpus[0].load.busy_percent.status is ReadingStatus.UNSUPPORTED
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert [(one.profile, one.parent_uuid) for one in devices] == [
        ("1g.10gb", fake.uuid_of(0)),
        ("3g.40gb", fake.uuid_of(0)),
        ("", ""),
    ]
    assert all(device.healthy for device in devices)


def test_a_mig_mode_that_waits_for_a_reset_takes_no_jobs(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0, mig="0/1"))
    inventory = driver.read()
    (device,) = placeable_devices(inventory, inventory.taken_at_ms)
    assert not device.healthy
    assert "MIG mode is to be switched on" in device.health_reason


def test_a_driver_without_a_function_says_so_and_the_rest_is_read(
    fake, driver, install, tmp_path
) -> None:
    missing = ["nvmlDeviceGetSerial", "nvmlDeviceGetTemperatureV"]
    missing += [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics")]
    fake.build(tmp_path / "old", without=missing)
    install(tmp_path / "old")
    driver.say(fake.system_line(), fake.gpu_line(0), f"proc 0 4242 {200 * MIB} 4294967295 0")
    gpu = driver.read().gpus[0]
    assert gpu.identity.serial.status is ReadingStatus.MISSING_SYMBOL
    assert gpu.identity.serial.value is None
    assert gpu.environment.temperature_c.value == 29, "by the older function"
    assert gpu.load.processes.value is not None, "by the older function"
    assert [one.pid for one in gpu.load.processes.value] == [4242]
    assert gpu.load.processes.value[0].gpu_instance_id is None


def test_a_driver_that_supports_nothing_is_unknown_and_never_healthy(driver) -> None:
    driver.say("system driver=580.1 nvml=13.580.1 cuda=13000", "gpu 0 uuid=GPU-1 name=Odd")
    inventory = driver.read()
    (gpu,) = inventory.gpus
    assert gpu.environment.temperature_c.status is ReadingStatus.UNSUPPORTED
    assert gpu.load.busy_percent.value is None
    assert verdict(inventory, gpu) is Verdict.UNKNOWN
    (device,) = placeable_devices(inventory, inventory.taken_at_ms)
    assert not device.healthy


def test_memory_of_version_1_has_no_reserved_part(fake, driver, install, tmp_path) -> None:
    fake.build(tmp_path / "v1", without=["nvmlDeviceGetMemoryInfo_v2"])
    install(tmp_path / "v1")
    driver.say(fake.system_line(), fake.gpu_line(0, used=100))
    memory = driver.read().gpus[0].memory
    assert memory.used_bytes.value == 580 * MIB
    assert memory.reserved_bytes.status is ReadingStatus.MISSING_SYMBOL


def test_memory_of_version_1_is_tried_when_the_driver_refuses_version_2(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0), "fail nvmlDeviceGetMemoryInfo_v2 * 25")
    assert driver.read().gpus[0].memory.total_bytes.value == 81559 * MIB


def test_unified_memory_is_the_hosts(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0, name="NVIDIA GB10", mem=None))
    memory = driver.read().gpus[0].memory
    assert memory.kind == "unified"
    assert memory.total_bytes.value == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.used_bytes.status is ReadingStatus.UNSUPPORTED


def test_an_unsupported_recovery_action_is_not_the_action_nothing(driver, fake) -> None:
    driver.say(fake.system_line("535.1"), fake.gpu_line(0, recovery=None))
    action = driver.read().gpus[0].faults.recovery_action
    assert (action.value, action.status) == (None, ReadingStatus.UNSUPPORTED)


def test_a_driver_older_than_a_field_is_not_in_trouble(driver, fake) -> None:
    driver.say(fake.system_line("535.1"), fake.gpu_line(0, recovery="!2"))
    inventory = driver.read()
    action = inventory.gpus[0].faults.recovery_action
    assert (action.value, action.status) == (None, ReadingStatus.MISSING_SYMBOL)
    assert verdict(inventory, inventory.gpus[0]) is Verdict.PASS


def test_one_reading_that_is_denied_says_so(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0, serial="!4", power="!999"))
    inventory = driver.read()
    assert inventory.gpus[0].identity.serial.status is ReadingStatus.NO_PERMISSION
    assert inventory.gpus[0].environment.power_mw.status is ReadingStatus.TRANSIENT
    assert verdict(inventory, inventory.gpus[0]) is Verdict.PASS


def test_a_wanted_recovery_action_keeps_jobs_away(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0), fake.gpu_line(1, recovery=4))
    inventory = driver.read()
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert [device.healthy for device in devices] == [True, False]
    assert devices[1].health_reason == "the driver wants: drain it, then reset it"


def test_a_name_that_is_no_text_does_not_hide_the_gpu(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0, name=r"\xff\xfeH\xc3("), fake.gpu_line(1))
    inventory = driver.read()
    assert inventory.gpus[0].identity.name.is_ok
    assert "H" in (inventory.gpus[0].identity.name.value or "")
    assert len(inventory.gpus) == 2


def test_a_process_list_of_another_version_is_an_error_and_no_list(driver, fake) -> None:
    driver.say(fake.system_line(), fake.gpu_line(0), "proc 0 4294967290 1 0 0")
    processes = driver.read().gpus[0].load.processes
    assert (processes.value, processes.status) == (None, ReadingStatus.ERROR)


def test_chassis_of_racks_and_of_boards_that_leave_it_empty(driver, fake) -> None:
    driver.say(
        fake.system_line(),
        fake.gpu_line(0, name="NVIDIA GB200", chassis="1820000000001", fabric_uuid="0" * 31 + "7"),
        fake.gpu_line(1, name="NVIDIA B200", chassis=""),
    )
    inventory = driver.read()
    rack, board = inventory.gpus
    assert rack.identity.chassis_serial.value == "1820000000001"
    assert rack.fabric.cluster_uuid.value == "00000000-0000-0000-0000-000000000007"
    assert (board.identity.chassis_serial.value, board.identity.chassis_serial.is_ok) == ("", True)


@pytest.mark.parametrize(
    ("version", "driver_version", "state", "health"),
    [
        (3, "580.1", "completed", "healthy"),
        (2, "560.1", "completed", None),
        (3, "535.1", None, None),
    ],
)
def test_fabric_by_the_structure_that_the_driver_knows(
    driver, fake, version, driver_version, state, health
) -> None:
    driver.say(fake.system_line(driver_version), fake.gpu_line(0, fabric_version=version))
    fabric = driver.read().gpus[0].fabric
    assert (fabric.state.value, fabric.health.value) == (state, health)


def test_the_library_of_another_driver_is_told(driver, fake) -> None:
    driver.say(fake.system_line(nvml="13.590.48.01"), fake.gpu_line(0))
    inventory = driver.read()
    assert "590.48.01" in inventory.note
    assert len(inventory.gpus) == 1


@pytest.mark.needs_shared
def test_a_real_drivers_list_of_functions_is_enough(fake, driver, install, tmp_path) -> None:
    names = (SHARED / "nvsmi" / "symbols-590.48.01.txt").read_text().split()
    built = fake.build(tmp_path / "real", exports=names)
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", built], capture_output=True, text=True, check=True
    )
    assert sorted(line.split()[-1] for line in listed.stdout.splitlines()) == sorted(names)
    install(tmp_path / "real")
    inventory = driver.read()
    assert {verdict(inventory, gpu) for gpu in inventory.gpus} == {Verdict.PASS}
    missing = ReadingStatus.MISSING_SYMBOL
    assert missing not in {gpu.identity.serial.status for gpu in inventory.gpus}


def test_a_machine_without_a_driver_says_so_at_once(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    inventory = read_inventory()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if inventory.gpus:
        pytest.skip("this machine has a driver")
    assert inventory.note.startswith("no NVIDIA driver library (libnvidia-ml.so.1) on this machine")
    assert inventory.note.endswith("CPU jobs only")
    assert "\n" not in inventory.note
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.15
