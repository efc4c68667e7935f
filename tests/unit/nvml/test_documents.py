"""What nvidia-smi printed on seven real machines is shown truly; bad documents are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsched.adapters.nvml.documents import parse_document
from mlsched.core.health import Verdict, assess
from mlsched.core.inventory import placeable_devices
from mlsched.errors import SpecError
from mlsched.model.inventory import Inventory, Reading, ReadingStatus

SHARED = Path(__file__).parents[4] / "shared" / "nvsmi"
MIB = 1 << 20
UNSUPPORTED, MISSING = ReadingStatus.UNSUPPORTED, ReadingStatus.MISSING_SYMBOL


def load(name: str) -> Inventory:
    inventory = parse_document((SHARED / f"nvidia-hw_qx-{name}.xml").read_bytes(), 0)
    assert inventory.note == ""
    assert inventory.source == "nvidia-smi"
    return inventory


def status(reading: Reading) -> ReadingStatus:
    assert reading.is_ok == (reading.value is not None)
    return reading.status


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "model", "count", "total_mib", "reserved_mib", "driver", "cuda"),
    [
        ("a100", "NVIDIA A100-SXM4-40GB", 1, 40960, 518, "570.148.08", "12.8"),
        ("h100", "NVIDIA H100 80GB HBM3", 8, 81559, 480, "580.105.08", "13.0"),
        ("b200", "NVIDIA B200", 8, 183359, 728, "580.105.08", "13.0"),
        ("gb200", "NVIDIA GB200", 4, 189471, 742, "580.173.02", "13.0"),
        ("gb300", "NVIDIA GB300", 4, 284208, 947, "580.173.02", "13.0"),
        ("l40s", "NVIDIA L40S", 1, 46068, 609, "595.91.07", "13.2"),
        ("t4", "Tesla T4", 1, 15360, 448, "595.91.07", "13.2"),
    ],
)
def test_counts_names_and_memory(name, model, count, total_mib, reserved_mib, driver, cuda) -> None:
    inventory = load(name)
    assert (inventory.driver.value, inventory.cuda.value) == (driver, cuda)
    assert len(inventory.gpus) == count
    for number, gpu in enumerate(inventory.gpus):
        assert gpu.index == number
        assert gpu.uuid == f"GPU-{number:08x}-0000-0000-0000-{number:012x}"
        assert gpu.identity.name.value == model
        assert gpu.memory.kind == "dedicated"
        assert gpu.memory.total_bytes.value == total_mib * MIB
        assert gpu.memory.reserved_bytes.value == reserved_mib * MIB
        assert gpu.memory.used_bytes.value == 0
        assert gpu.load.busy_percent.value == 0
        assert gpu.load.processes.value == ()
        assert gpu.faults.recovery_action.value == 0
        assert gpu.faults.is_ecc_enabled.value is True
        assert gpu.faults.ecc_uncorrected.value == 0
        assert gpu.environment.power_limit_mw.is_ok
    devices = placeable_devices(inventory, inventory.taken_at_ms)
    assert len(devices) == count
    assert all(device.healthy for device in devices)


@pytest.mark.needs_shared
def test_a100() -> None:
    (gpu,) = load("a100").gpus
    assert gpu.identity.pci_bus_id.value == "00000000:06:00.0"
    assert gpu.identity.module_id.value == 7
    assert gpu.identity.addressing_mode.value == "HMM"
    assert gpu.environment.temperature_c.value == 33
    assert gpu.environment.memory_temperature_c.value == 34
    assert status(gpu.environment.margin_c) is UNSUPPORTED, "its limits are absolute"
    assert gpu.environment.power_mw.value == 49_680
    assert gpu.environment.power_limit_mw.value == 400_000
    assert gpu.environment.clock_reasons.value == 0x1
    assert gpu.mig.is_enabled.value is False
    assert gpu.mig.instances == ()
    assert gpu.faults.has_remap_failed.value is False
    assert status(gpu.faults.is_retirement_pending) is UNSUPPORTED
    assert gpu.faults.is_sram_threshold_exceeded.value is False
    assert status(gpu.fabric.state) is UNSUPPORTED
    assert status(gpu.fabric.health) is MISSING, "this driver prints no summary"
    assert status(gpu.identity.chassis_serial) is UNSUPPORTED


@pytest.mark.needs_shared
def test_h100() -> None:
    inventory = load("h100")
    gpu = inventory.gpus[0]
    assert [one.identity.pci_bus_id.value for one in inventory.gpus][:3] == [
        "00000000:53:00.0",
        "00000000:64:00.0",
        "00000000:75:00.0",
    ]
    assert {one.identity.module_id.value for one in inventory.gpus} == set(range(1, 9))
    assert gpu.environment.margin_c.value == 58
    assert gpu.environment.power_mw.value == 68_920
    assert gpu.links.pcie_generation.value == 5
    assert gpu.links.pcie_replays.value == 150
    assert gpu.fabric.state.value == "completed"
    assert gpu.fabric.cluster_uuid.value == "00000000-0000-0000-0000-000000000000"
    assert status(gpu.fabric.health) is UNSUPPORTED
    verdicts = {assess(one, (), inventory.taken_at_ms).verdict for one in inventory.gpus}
    assert verdicts == {Verdict.PASS}


@pytest.mark.needs_shared
def test_b200_leaves_its_chassis_empty() -> None:
    inventory = load("b200")
    for gpu in inventory.gpus:
        assert gpu.identity.chassis_serial.value == ""
        assert gpu.identity.addressing_mode.value == "none"
        assert gpu.fabric.health.value == "healthy"


@pytest.mark.needs_shared
@pytest.mark.parametrize(("name", "clique"), [("gb200", 2), ("gb300", 32766)])
def test_gb200_and_gb300_are_in_a_domain(name, clique) -> None:
    for gpu in load(name).gpus:
        assert gpu.identity.chassis_serial.value == "1820000000001"
        assert gpu.identity.addressing_mode.value == "ATS"
        assert gpu.fabric.clique_id.value == clique
        assert gpu.fabric.cluster_uuid.value == "00000001-0000-0000-0000-000000000001"
        assert gpu.identity.architecture.value == "Blackwell"


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", ["l40s", "t4"])
def test_l40s_and_t4_have_no_mig_and_no_memory_temperature(name) -> None:
    inventory = load(name)
    (gpu,) = inventory.gpus
    assert status(gpu.mig.is_enabled) is UNSUPPORTED
    assert status(gpu.environment.memory_temperature_c) is UNSUPPORTED
    assert (gpu.links.pcie_width.value, gpu.links.pcie_width_max.value) == (8, 16)
    health = assess(gpu, (), inventory.taken_at_ms)
    assert (health.verdict, health.schedulable) == (Verdict.INFO, True)


@pytest.mark.needs_shared
def test_t4_retires_pages_and_remaps_no_rows() -> None:
    (gpu,) = load("t4").gpus
    assert gpu.faults.is_retirement_pending.value is False
    assert status(gpu.faults.has_remap_failed) is UNSUPPORTED, "the whole part is N/A"
    assert status(gpu.faults.is_sram_threshold_exceeded) is MISSING
    assert gpu.identity.pci_bus_id.value == "00000000:00:1E.0"


HEAD = '<?xml version="1.0"?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'

MIG = """
<nvidia_smi_log>
  <timestamp>Thu Jan  1 00:00:10 1970</timestamp>
  <attached_gpus>1</attached_gpus>
  <gpu id="00000000:07:00.0">
    <uuid>GPU-7</uuid>
    <mig_mode><current_mig>Enabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>
    <mig_devices>
      <mig_device>
        <index>0</index><gpu_instance_id>1</gpu_instance_id>
        <compute_instance_id>0</compute_instance_id>
        <device_attributes><shared><multiprocessor_count>42</multiprocessor_count></shared>
        </device_attributes>
        <fb_memory_usage><total>20096 MiB</total><used>37 MiB</used><free>20058 MiB</free>
        </fb_memory_usage>
      </mig_device>
      <mig_device><index>2</index><gpu_instance_id>N/A</gpu_instance_id></mig_device>
    </mig_devices>
    <utilization><gpu_util>N/A</gpu_util></utilization>
    <temperature><gpu_temp>[Unknown Error]</gpu_temp></temperature>
    <processes>
      <process_info><gpu_instance_id>1</gpu_instance_id><pid>4242</pid><type>C</type>
        <used_memory>512 MiB</used_memory></process_info>
      <process_info><gpu_instance_id>N/A</gpu_instance_id><pid>4243</pid><type>G</type>
        <used_memory>N/A</used_memory></process_info>
    </processes>
  </gpu>
</nvidia_smi_log>
"""


def test_mig_instances_processes_and_errors() -> None:
    inventory = parse_document((HEAD + MIG).encode(), 5)
    assert inventory.taken_at_ms == 10_000
    (gpu,) = inventory.gpus
    first, second = gpu.mig.instances
    assert (first.slot, first.gpu_instance_id.value, first.multiprocessors.value) == (0, 1, 42)
    assert first.memory.total_bytes.value == 20096 * MIB
    assert status(first.memory.reserved_bytes) is MISSING
    assert second.slot == 2
    assert status(second.gpu_instance_id) is UNSUPPORTED
    assert status(gpu.load.busy_percent) is UNSUPPORTED
    assert status(gpu.environment.temperature_c) is ReadingStatus.TRANSIENT
    assert gpu.load.processes.value is not None
    compute, graphics = gpu.load.processes.value
    assert (compute.pid, compute.kind, compute.used_bytes) == (4242, "compute", 512 * MIB)
    assert (graphics.kind, graphics.used_bytes, graphics.gpu_instance_id) == (
        "graphics",
        None,
        None,
    )
    assert placeable_devices(inventory, 0) == (), "no UUID of an instance is in the document"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPU is lost", ReadingStatus.LOST),
        ("[GPU requires reset]", ReadingStatus.ERROR),
        ("Insufficient Permissions", ReadingStatus.NO_PERMISSION),
        ("lukewarm", ReadingStatus.ERROR),
        ("", ReadingStatus.ERROR),
        ("33.5 C", ReadingStatus.ERROR),
    ],
)
def test_what_stands_in_place_of_a_value(text, expected) -> None:
    body = f"<gpu><temperature><gpu_temp>{text}</gpu_temp></temperature></gpu>"
    inventory = parse_document(f"<nvidia_smi_log>{body}</nvidia_smi_log>".encode(), 0)
    assert status(inventory.gpus[0].environment.temperature_c) is expected


def test_a_document_that_is_cut_by_hand_says_so() -> None:
    inventory = parse_document(
        b"<nvidia_smi_log><attached_gpus>2</attached_gpus><gpu/></nvidia_smi_log>", 7
    )
    assert inventory.note == "the document announces 2 GPUs and describes 1"
    assert inventory.taken_at_ms == 7
    assert inventory.gpus[0].uuid == "index-0"


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
    "<nvidia_smi_log>&c;</nvidia_smi_log>"
)
FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><nvidia_smi_log>&x;</nvidia_smi_log>'
PARAMETER = '<!DOCTYPE a [<!ENTITY % p "x">]><nvidia_smi_log/>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "entities"),
        (FILE, "entities"),
        (PARAMETER, "entities"),
        (HEAD + "<nvidia_smi_log>&unknown;</nvidia_smi_log>", "entities"),
        ("<nvidia_smi_log>&unknown;</nvidia_smi_log>", "well-formed"),
        ("<nvidia_smi_log><gpu></nvidia_smi_log>", "well-formed"),
        ("<a/><b/>", "well-formed"),
        ("", "well-formed"),
        ("<html/>", "nvidia-smi -q -x"),
        ("<a>" * 40 + "</a>" * 40, "nested deeper"),
    ],
)
def test_documents_that_are_refused(text, words) -> None:
    with pytest.raises(SpecError, match=words):
        parse_document(text.encode(), 0)


def test_a_document_that_is_too_large_is_refused() -> None:
    with pytest.raises(SpecError, match="at most"):
        parse_document(b"<nvidia_smi_log>" + b" " * (17 << 20) + b"</nvidia_smi_log>", 0)
