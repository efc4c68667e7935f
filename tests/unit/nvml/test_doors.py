"""Whatever a driver does becomes a reading with a status. No driver is needed: calls are ours."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from mlsched.adapters.nvml import bindings
from mlsched.adapters.nvml.doors import Door, derive, number, to_text
from mlsched.adapters.nvml.hosts import Machine, count_nvidia_devices, numa_nodes
from mlsched.adapters.nvml.links import P2P_NVLINK, P2P_READ, P2P_WRITE
from mlsched.adapters.nvml.migs import parse_profile, read_mig
from mlsched.adapters.nvml.structs import copy_fields, raw_text
from mlsched.model.inventory import ReadingStatus


class StillClock:
    """Time that a test sets."""

    def now_ms(self) -> int:
        return 5

    def tick_us(self) -> int:
        return 7


def make_door(**functions: Any) -> Door:
    """A door to the real binding's errors and our functions."""
    names = ("NVMLError", "NVMLLibraryMismatchError", "nvmlMemory_v2")
    nvml = SimpleNamespace(**{name: getattr(pynvml, name) for name in names}, **functions)
    return Door(nvml, StillClock())


def raising(error: BaseException) -> Any:
    def call(*_: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (3, "unsupported"),
        (4, "no_permission"),
        (13, "missing_symbol"),
        (15, "lost"),
        (28, "lost"),
        (10, "transient"),
        (19, "transient"),
        (27, "transient"),
        (999, "transient"),
        (25, "unsupported"),
        (2, "error"),
        (16, "error"),
        (30, "error"),
        (12345, "error"),
    ],
)
def test_return_codes_and_their_meaning(code, status) -> None:
    reading = make_door(f=raising(pynvml.NVMLError(code))).call("f")
    assert (reading.value, reading.status, reading.code) == (None, status, code)
    assert reading.detail
    assert reading.at_ms == 5


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (pynvml.NVMLLibraryMismatchError("old"), "missing_symbol"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "error"),
        (ctypes.ArgumentError("argument 3"), "error"),
        (AttributeError("value"), "error"),
    ],
)
def test_errors_that_are_no_nvml_errors(error, status) -> None:
    assert make_door(f=raising(error)).call("f").status == status


def test_a_function_that_this_binding_lacks() -> None:
    reading = make_door().call("nvmlDeviceGetSomethingNew")
    assert reading.status is ReadingStatus.MISSING_SYMBOL
    assert "nvmlDeviceGetSomethingNew" in reading.detail


def test_an_error_of_ours_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        make_door(f=raising(ZeroDivisionError())).call("f")


def test_after_a_refusal_nothing_is_asked() -> None:
    asked = []
    door = make_door(f=lambda: asked.append(1), g=raising(pynvml.NVMLError(15)))
    door.refuse(door.call("g"))
    assert door.call("f").status is ReadingStatus.LOST
    assert door.text("f").status is ReadingStatus.LOST
    assert asked == []


def test_answers_are_given_again_in_their_order() -> None:
    first = make_door(f=lambda: 1, g=lambda: 2)
    answers = [first.call("f"), first.call("g")]
    again = Door(SimpleNamespace(**vars(make_door().nvml)), StillClock(), first.answers)
    assert [again.call("f"), again.call("g")] == answers
    assert again.call("h").status is ReadingStatus.MISSING_SYMBOL


@pytest.mark.parametrize("value", [-1, None, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, ctypes.c_uint(-1)])
def test_sentinels_are_no_values(value) -> None:
    reading = make_door(f=lambda: value).call("f", then=number)
    assert (reading.value, reading.status) == (None, ReadingStatus.UNSUPPORTED)


def test_numbers_of_ctypes_are_plain_numbers() -> None:
    assert make_door(f=lambda: ctypes.c_uint(0)).call("f", then=number).value == 0


def test_derived_readings_fail_as_their_source_did() -> None:
    lost = make_door(f=raising(pynvml.NVMLError(15))).call("f")
    assert derive(lost, lambda _: 1) == lost
    fine = make_door(f=lambda: 0xFFFFFFFF).call("f")
    assert derive(fine, number).status is ReadingStatus.UNSUPPORTED


def test_text_that_is_no_text_is_shown_as_far_as_it_goes() -> None:
    assert to_text(b"Tesla \xff\x1b[31m") == "Tesla ��[31m"
    assert to_text(b"NVIDIA H100\0\0") == "NVIDIA H100"

    @pynvml.convertStrBytes
    def name() -> bytes:
        return b"\xfe\xffGPU"

    assert make_door(f=name).call("f").status is ReadingStatus.ERROR, "the binding's own decoding"
    assert make_door(f=name).text("f").value == "��GPU"


def test_structures_with_bytes_that_are_no_text() -> None:
    info = pynvml.c_nvmlPlatformInfo_v2_t()
    raw = (ctypes.c_char * ctypes.sizeof(info)).from_buffer(info)
    raw[20:28] = b"1820\xff\0zz"
    assert raw_text(info, "chassisSerialNumber") == "1820�"


def test_field_values_count_only_with_a_code_of_zero() -> None:
    values = (pynvml.c_nvmlFieldValue_t * 3)()
    for one, (field, code, kind) in zip(values, [(230, 3, 1), (91, 0, 1), (82, 0, 5)], strict=True):
        one.fieldId, one.nvmlReturn, one.valueType = field, code, kind
    values[1].value.uiVal = 18
    values[2].value.siVal = -4
    assert copy_fields(values) == {230: (3, 0), 91: (0, 18), 82: (0, -4)}


def test_every_mig_slot_is_asked() -> None:
    asked = []

    def child(handle: Any, slot: int) -> str:
        asked.append(slot)
        if slot not in (0, 3):
            raise pynvml.NVMLError(6 if slot % 2 else 2)
        return f"handle {slot}"

    door = make_door(
        nvmlDeviceGetMigMode=lambda handle: [1, 1],
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=child,
        nvmlDeviceGetUUID=lambda handle: f"MIG-{handle}",
    )
    mig = read_mig(door, "gpu")
    assert asked == list(range(7))
    assert [one.uuid for one in mig.instances] == ["MIG-handle 0", "MIG-handle 3"]


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "1g.10gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.20gb+me", "1g.20gb+me"),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "1c.3g.20gb"),
    ],
)
def test_profiles_in_names(name, profile) -> None:
    assert parse_profile(name) == profile


def test_p2p_kinds_are_numbers() -> None:
    assert (P2P_READ, P2P_WRITE, P2P_NVLINK) == (0, 1, 2)


SIZES = {
    "c_nvmlMemory_t": 24,
    "c_nvmlMemory_v2_t": 40,
    "nvmlPciInfo_t": 68,
    "c_nvmlTemperature_v1_t": 12,
    "c_nvmlMarginTemperature_v1_t": 8,
    "c_nvmlProcessInfo_v3_t": 24,
    "c_nvmlFieldValue_t": 40,
    "c_nvmlEventData_t": 32,
    "c_nvmlDeviceAttributes": 40,
    "c_nvmlGpuFabricInfo_v2_t": 36,
    "c_nvmlGpuFabricInfo_v3_t": 40,
    "c_nvmlPlatformInfo_v2_t": 44,
    "c_nvmlEccSramErrorStatus_v1_t": 104,
    "c_nvmlDeviceAddressingMode_t": 8,
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_structures_have_the_size_that_the_fake_and_recordings_expect(name, size) -> None:
    assert ctypes.sizeof(getattr(pynvml, name)) == size


@pytest.mark.parametrize(
    ("word", "version", "name"),
    [
        ("nvmlMemory_v2", 2, "c_nvmlMemory_v2_t"),
        ("nvmlGpuFabricInfo_v3", 3, "c_nvmlGpuFabricInfo_v3_t"),
        ("nvmlPlatformInfo_v2", 2, "c_nvmlPlatformInfo_v2_t"),
        ("nvmlEccSramErrorStatus_v1", 1, "c_nvmlEccSramErrorStatus_v1_t"),
    ],
)
def test_version_words(word, version, name) -> None:
    size = ctypes.sizeof(getattr(pynvml, name))
    assert getattr(pynvml, word) == (version << 24) | size


def test_a_module_that_is_not_nvidias_is_named(monkeypatch) -> None:
    other = SimpleNamespace(__file__="/somewhere/pynvml.py")
    monkeypatch.setattr(bindings, "import_module", lambda name: other)
    with pytest.raises(bindings.BindingError, match=r"/somewhere/pynvml\.py"):
        bindings.load_binding()


@pytest.mark.parametrize(
    ("bus_id", "text", "expected"),
    [
        ("00000000:1B:00.0", "1\n", (1,)),
        ("00000000:1B:00.0", "-1\n", ()),
        ("00010000:1B:00.0", None, None),
        ("no address", "0", None),
        ("00000000:1B:00.0", "N/A", None),
    ],
)
def test_numa_nodes_come_from_sysfs(tmp_path, bus_id, text, expected) -> None:
    if text is not None:
        device = tmp_path / "sys/bus/pci/devices/0000:1b:00.0"
        device.mkdir(parents=True)
        (device / "numa_node").write_text(text)
    assert numa_nodes(Machine(tmp_path), bus_id) == expected


def test_nvidia_devices_without_a_driver_are_counted(tmp_path) -> None:
    found = [("1", "0x10de", "0x030200"), ("2", "0x10de", "0x040300"), ("3", "0x8086", "0x030000")]
    for name, vendor, kind in found:
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert count_nvidia_devices(tmp_path) == 1, "sound devices and other makers do not count"
    assert count_nvidia_devices(tmp_path / "nothing") == 0
