"""Reads everything of one GPU through its door, in a fixed order of questions."""

from __future__ import annotations

from ctypes import c_uint
from typing import Any

from msgspec.structs import replace

from mlsched.adapters.nvml.doors import (
    CODE_STATUS,
    Door,
    NotReportedError,
    derive,
    describe_code,
    number,
)
from mlsched.adapters.nvml.hosts import Host, numa_nodes
from mlsched.adapters.nvml.links import read_fabric, read_links
from mlsched.adapters.nvml.memories import read_memory
from mlsched.adapters.nvml.migs import read_mig
from mlsched.adapters.nvml.processes import read_processes
from mlsched.adapters.nvml.structs import (
    FIELD_MEMORY_TEMPERATURE,
    FIELD_NVLINK_COUNT,
    FIELD_RECOVERY_ACTION,
    copy_fields,
    raw_text,
)
from mlsched.model.inventory import (
    PLACEHOLDER,
    Environment,
    Faults,
    Gpu,
    Identity,
    Load,
    Reading,
    ReadingStatus,
)

_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
_ADDRESSING_MODES = {0: "none", 1: "HMM", 2: "ATS"}
_FIELDS = (FIELD_MEMORY_TEMPERATURE, FIELD_NVLINK_COUNT, FIELD_RECOVERY_ACTION)
_CORRECTED, _UNCORRECTED = 0, 1
_VOLATILE, _AGGREGATE = 0, 1

_FIELD_STATUS = {
    **CODE_STATUS,
    2: ReadingStatus.MISSING_SYMBOL,
    6: ReadingStatus.MISSING_SYMBOL,
}
"""A driver that is older than a field calls its id invalid, or does not answer for it."""

Fields = dict[int, Reading[int]]


def read_gpu(door: Door, index: int, host: Host, driver: Reading[str]) -> tuple[Gpu, Any]:
    """One GPU, and its handle for questions about pairs of GPUs; None when it has no handle.

    Never raises: a GPU that is lost is a record whose readings say so.
    """
    handle: Reading[Any] = door.call("nvmlDeviceGetHandleByIndex", index)
    if not handle.is_ok:
        door.refuse(handle)
    fields = _read_fields(door, handle.value)
    identity = _read_identity(door, handle.value, host)
    gpu = Gpu(
        uuid=identity.uuid.value or f"{PLACEHOLDER}{index}",
        index=index,
        identity=identity,
        memory=read_memory(door, handle.value, host),
        mig=read_mig(door, handle.value),
        load=_read_load(door, handle.value),
        environment=_read_environment(door, handle.value, fields),
        faults=_read_faults(door, handle.value, fields),
        links=read_links(door, handle.value, fields[FIELD_NVLINK_COUNT]),
        fabric=read_fabric(door, handle.value, driver),
    )
    return gpu, handle.value


def _read_fields(door: Door, handle: Any) -> Fields:
    """Field values, each with the return code of its own: one call asks for all."""
    answer: Reading[Any] = door.call("nvmlDeviceGetFieldValues", handle, _FIELDS, then=copy_fields)
    return {one: _field(answer, one) for one in _FIELDS}


def _field(answer: Reading[Any], field: int) -> Reading[int]:
    if answer.value is None:
        return answer
    code, value = answer.value.get(field, (6, 0))
    if code == 0:
        return replace(answer, value=value)
    status = _FIELD_STATUS.get(code, ReadingStatus.ERROR)
    return replace(answer, value=None, status=status, code=code, detail=describe_code(code))


def _read_identity(door: Door, handle: Any, host: Host) -> Identity:
    bus_id = door.call("nvmlDeviceGetPciInfo", handle, then=lambda info: raw_text(info, "busId"))
    platform = door.fill("nvmlDeviceGetPlatformInfo", handle, "c_nvmlPlatformInfo_v2_t")
    # By default the binding writes module ids of all GPUs into one object, and sends the last in.
    module = c_uint()
    return Identity(
        uuid=door.text("nvmlDeviceGetUUID", handle),
        name=door.text("nvmlDeviceGetName", handle),
        serial=door.text("nvmlDeviceGetSerial", handle),
        pci_bus_id=bus_id,
        minor=door.call("nvmlDeviceGetMinorNumber", handle, then=number),
        architecture=door.call("nvmlDeviceGetArchitecture", handle, then=_architecture),
        compute_capability=door.call(
            "nvmlDeviceGetCudaComputeCapability", handle, then=lambda pair: f"{pair[0]}.{pair[1]}"
        ),
        board_part_number=door.text("nvmlDeviceGetBoardPartNumber", handle),
        module_id=door.call("nvmlDeviceGetModuleId", handle, module, then=number),
        vbios_version=door.text("nvmlDeviceGetVbiosVersion", handle),
        gsp_version=door.text("nvmlDeviceGetGspFirmwareVersion", handle),
        addressing_mode=door.call("nvmlDeviceGetAddressingMode", handle, then=_addressing),
        chassis_serial=derive(platform, lambda info: raw_text(info, "chassisSerialNumber")),
        numa_nodes=derive(bus_id, lambda one: _numa(host, one)),
    )


def _architecture(code: Any) -> str:
    return _ARCHITECTURES.get(number(code), f"architecture {code}")


def _addressing(code: Any) -> str:
    return _ADDRESSING_MODES.get(int(code), f"mode {code}")


def _numa(host: Host, bus_id: str) -> tuple[int, ...]:
    nodes = numa_nodes(host, bus_id)
    if nodes is None:
        raise NotReportedError("sysfs does not have this device")
    return nodes


def _read_load(door: Door, handle: Any) -> Load:
    rates: Reading[Any] = door.call("nvmlDeviceGetUtilizationRates", handle)
    return Load(
        busy_percent=derive(rates, lambda one: number(one.gpu)),
        memory_busy_percent=derive(rates, lambda one: number(one.memory)),
        processes=read_processes(door, handle),
    )


def _read_environment(door: Door, handle: Any, fields: Fields) -> Environment:
    temperature = door.call("nvmlDeviceGetTemperatureV", handle, 0, then=int)
    if temperature.status is ReadingStatus.MISSING_SYMBOL:
        temperature = door.call("nvmlDeviceGetTemperature", handle, 0, then=int)
    reasons = door.call("nvmlDeviceGetCurrentClocksEventReasons", handle, then=int)
    if reasons.status is ReadingStatus.MISSING_SYMBOL:
        reasons = door.call("nvmlDeviceGetCurrentClocksThrottleReasons", handle, then=int)
    return Environment(
        temperature_c=temperature,
        memory_temperature_c=derive(fields[FIELD_MEMORY_TEMPERATURE], int),
        margin_c=door.call("nvmlDeviceGetMarginTemperature", handle, then=int),
        power_mw=door.call("nvmlDeviceGetPowerUsage", handle, then=number),
        power_limit_mw=door.call("nvmlDeviceGetEnforcedPowerLimit", handle, then=number),
        clock_reasons=reasons,
    )


def _read_faults(door: Door, handle: Any, fields: Fields) -> Faults:
    def ecc(kind: int, counter: int) -> Reading[int]:
        return door.call("nvmlDeviceGetTotalEccErrors", handle, kind, counter, then=number)

    mode: Reading[Any] = door.call("nvmlDeviceGetEccMode", handle)
    rows: Reading[Any] = door.call("nvmlDeviceGetRemappedRows", handle)
    sram = door.fill("nvmlDeviceGetSramEccErrorStatus", handle, "c_nvmlEccSramErrorStatus_v1_t")
    return Faults(
        recovery_action=fields[FIELD_RECOVERY_ACTION],
        is_ecc_enabled=derive(mode, lambda pair: int(pair[0]) == 1),
        ecc_corrected=ecc(_CORRECTED, _VOLATILE),
        ecc_uncorrected=ecc(_UNCORRECTED, _VOLATILE),
        ecc_uncorrected_aggregate=ecc(_UNCORRECTED, _AGGREGATE),
        is_sram_threshold_exceeded=derive(sram, lambda one: bool(one.bThresholdExceeded)),
        remapped_corrected=derive(rows, lambda four: number(four[0])),
        remapped_uncorrected=derive(rows, lambda four: number(four[1])),
        is_remap_pending=derive(rows, lambda four: bool(four[2])),
        has_remap_failed=derive(rows, lambda four: bool(four[3])),
        is_retirement_pending=door.call(
            "nvmlDeviceGetRetiredPagesPendingStatus", handle, then=bool
        ),
    )
