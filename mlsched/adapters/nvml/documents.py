"""Reads what ``nvidia-smi -q -x`` printed on some machine into an `Inventory`.

For ``mlsched gpus --replay``: users attach such a document to a report more often than a recording.
What the document does not have is missing, what it calls N/A is unsupported. The parser expands no
entities, loads nothing, and bounds size and depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from mlsched.adapters.nvml.migs import parse_profile
from mlsched.adapters.nvml.trees import Element, parse_tree
from mlsched.errors import SpecError
from mlsched.model.inventory import (
    PLACEHOLDER,
    Environment,
    Fabric,
    Faults,
    Gpu,
    Identity,
    Inventory,
    Links,
    Load,
    Memory,
    Mig,
    MigInstance,
    Process,
    Reading,
    ReadingStatus,
)

R = TypeVar("R")

_STATUS_WORDS = {
    "n/a": ReadingStatus.UNSUPPORTED,
    "not supported": ReadingStatus.UNSUPPORTED,
    "requested functionality has been deprecated": ReadingStatus.UNSUPPORTED,
    "insufficient permissions": ReadingStatus.NO_PERMISSION,
    "function not found": ReadingStatus.MISSING_SYMBOL,
    "unknown error": ReadingStatus.TRANSIENT,
    "gpu is lost": ReadingStatus.LOST,
}
"""What stands in place of a value, with or without brackets."""

_RECOVERY = {"none": 0, "reset": 1, "reboot": 2, "drain p2p": 3, "drain and reset": 4}
_CLOCK_BITS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clocks_setting": 0x100,
}
_CLOCK_NAMES = (
    "clocks_event_reasons/clocks_event_reason_",
    "clocks_throttle_reasons/clocks_throttle_reason_",
)
_PROCESS_KINDS = {"C": "compute", "G": "graphics", "M": "mps"}
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_document(data: bytes, at_ms: int) -> Inventory:
    """The machine that a document describes.

    Args:
        data: The document.
        at_ms: When it was made, for a document that does not say it.

    Raises:
        SpecError: it is not XML, not of nvidia-smi, too large, or tries to declare entities.
    """
    root = parse_tree(data)
    if root.tag != "nvidia_smi_log":
        raise SpecError(
            f"expected the output of nvidia-smi -q -x, found a document of <{root.tag[:40]}>."
        )
    at_ms = _timestamp_ms(root) or at_ms
    top = _Part(root, at_ms)
    gpus = tuple(
        _gpu(_Part(element, at_ms), index)
        for index, element in enumerate(one for one in root.children if one.tag == "gpu")
    )
    announced = top.read("attached_gpus", _integer)
    note = "" if gpus else "the document has no GPU"
    if announced.is_ok and announced.value != len(gpus):
        note = f"the document announces {announced.value} GPUs and describes {len(gpus)}"
    return Inventory(
        driver=top.read("driver_version", _text),
        nvml=top.absent("library version"),
        cuda=top.read("cuda_version", _text),
        source="nvidia-smi",
        taken_at_ms=at_ms,
        gpus=gpus,
        note=note,
    )


def _timestamp_ms(root: Element) -> int:
    """The time of the document, taken as UTC: nvidia-smi does not print the zone. 0: none."""
    element = root.find("timestamp")
    try:
        text = f"{element.text if element else ''} +0000"
        found = datetime.strptime(text, "%a %b %d %H:%M:%S %Y %z")
    except ValueError:
        return 0
    return int(found.timestamp() * 1000)


class _Part:
    """An element of the document that readings are taken from."""

    def __init__(self, element: Element, at_ms: int) -> None:
        self.element = element
        self._at_ms = at_ms

    def read(self, path: str, then: Callable[[str], R]) -> Reading[R]:
        """The text at a path. ``N/A`` counts for everything below the element that says it."""
        element: Element | None = self.element
        for name in path.split("/"):
            assert element is not None
            inner = element.child(name)
            if inner is None:
                if element is not self.element and not element.children:
                    return self._value(element.text, _nothing)
                return self.absent(path)
            element = inner
        assert element is not None
        return self._value(element.text, then)

    def first(self, paths: Iterable[str], then: Callable[[str], R]) -> Reading[R]:
        """The first of several paths that has a value, else what the first says."""
        found = [self.read(path, then) for path in paths]
        return next((one for one in found if one.is_ok), found[0])

    def total(self, paths: Iterable[str]) -> Reading[int]:
        """The sum of the numbers at several paths; documents have some or others of them."""
        found = [self.read(path, _integer) for path in paths]
        counts = [one for one in found if one.is_ok]
        if not counts:
            return found[0]
        return self.ok(sum(one.value or 0 for one in counts))

    def ok(self, value: R) -> Reading[R]:
        """A reading with a value."""
        return Reading(value, ReadingStatus.OK, self._at_ms)

    def absent(self, what: str) -> Reading[Any]:
        """A reading that this document does not have."""
        detail = f"not in the document: {what}"
        return Reading(None, ReadingStatus.MISSING_SYMBOL, self._at_ms, detail=detail)

    def inside(self, element: Element) -> _Part:
        """Another element of the same document."""
        return _Part(element, self._at_ms)

    def _value(self, text: str, then: Callable[[str], R]) -> Reading[R]:
        word = text.strip("[] ").lower()
        if word in _STATUS_WORDS:
            return Reading(None, _STATUS_WORDS[word], self._at_ms, detail=text[:80])
        if word == "gpu requires reset":
            return Reading(None, ReadingStatus.ERROR, self._at_ms, code=16, detail="reset required")
        try:
            return self.ok(then(text))
        except (ValueError, KeyError):
            detail = f"not understood: {text[:60]!r}"
            return Reading(None, ReadingStatus.ERROR, self._at_ms, detail=detail)


def _nothing(text: str) -> Any:
    raise ValueError(text)


def _text(text: str) -> str:
    return text


def _integer(text: str) -> int:
    """The number before a unit: ``0 %``, ``33 C``, ``16x``, ``640 bank(s)``."""
    found = re.match(r"-?\d+(?![\d.])", text)
    return int(found[0] if found else _nothing(text))


def _size_bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+) (B|KiB|MiB|GiB)", text)
    return int(found[1]) * _SIZES[found[2]] if found else _nothing(text)


def _milliwatts(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) W", text)
    return round(float(found[1]) * 1000) if found else _nothing(text)


def _switch(text: str) -> bool:
    return {"enabled": True, "disabled": False, "yes": True, "no": False}[text.lower()]


def _lower(text: str) -> str:
    return text.lower()


def _gpu(part: _Part, index: int) -> Gpu:
    identity = _identity(part)
    return Gpu(
        uuid=identity.uuid.value or f"{PLACEHOLDER}{index}",
        index=index,
        identity=identity,
        memory=_memory(part),
        mig=_mig(part),
        load=Load(
            busy_percent=part.read("utilization/gpu_util", _integer),
            memory_busy_percent=part.read("utilization/memory_util", _integer),
            processes=_processes(part),
        ),
        environment=_environment(part),
        faults=_faults(part),
        links=_links(part),
        fabric=Fabric(
            state=part.read("fabric/state", _lower),
            cluster_uuid=part.read("fabric/clusterUuid", _text),
            clique_id=part.read("fabric/cliqueId", _integer),
            health=part.read("fabric/health/summary", _fabric_health),
        ),
    )


def _fabric_health(text: str) -> str:
    return {"limited capacity": "limited"}.get(text.lower(), text.lower())


def _identity(part: _Part) -> Identity:
    return Identity(
        uuid=part.read("uuid", _text),
        name=part.read("product_name", _text),
        serial=part.read("serial", _text),
        pci_bus_id=part.read("pci/pci_bus_id", _text),
        minor=part.read("minor_number", _integer),
        architecture=part.read("product_architecture", _text),
        compute_capability=part.absent("compute capability"),
        board_part_number=part.read("board_part_number", _text),
        module_id=part.read("platformInfo/module_id", _integer),
        vbios_version=part.read("vbios_version", _text),
        gsp_version=part.read("gsp_firmware_version", _text),
        addressing_mode=part.read("addressing_mode", _addressing),
        chassis_serial=part.read("platformInfo/chassis_serial_number", _text),
        numa_nodes=part.absent("NUMA nodes"),
    )


def _addressing(text: str) -> str:
    return "none" if text == "None" else text


def _memory(part: _Part) -> Memory:
    total = part.read("fb_memory_usage/total", _size_bytes)
    return Memory(
        "unified" if total.status is ReadingStatus.UNSUPPORTED else "dedicated",
        total_bytes=total,
        used_bytes=part.read("fb_memory_usage/used", _size_bytes),
        free_bytes=part.read("fb_memory_usage/free", _size_bytes),
        reserved_bytes=part.read("fb_memory_usage/reserved", _size_bytes),
    )


def _mig(part: _Part) -> Mig:
    devices = part.element.find("mig_devices")
    found = [one for one in devices.children if one.tag == "mig_device"] if devices else []
    return Mig(
        is_enabled=part.read("mig_mode/current_mig", _switch),
        is_enabled_next=part.read("mig_mode/pending_mig", _switch),
        slots=part.absent("number of MIG slots"),
        instances=tuple(_instance(part.inside(one), n) for n, one in enumerate(found)),
    )


def _instance(part: _Part, position: int) -> MigInstance:
    """The document gives no UUIDs of instances, and names them only since some drivers."""
    slot = part.read("index", _integer)
    uuid = part.read("uuid", _text)
    number = slot.value if slot.value is not None else position
    shared = "device_attributes/shared"
    return MigInstance(
        uuid.value or f"slot-{number}",
        number,
        name=part.read("product_name", _text),
        profile=part.read("product_name", parse_profile),
        gpu_instance_id=part.read("gpu_instance_id", _integer),
        compute_instance_id=part.read("compute_instance_id", _integer),
        multiprocessors=part.read(f"{shared}/multiprocessor_count", _integer),
        memory=_memory(part),
    )


def _processes(part: _Part) -> Reading[tuple[Process, ...]]:
    element = part.element.find("processes")
    if element is None or (element.text and not element.children):
        return part.read("processes", _nothing)
    entries = [part.inside(one) for one in element.children if one.tag == "process_info"]
    found = (_process(entry) for entry in entries)
    return part.ok(tuple(one for one in found if one is not None))


def _process(part: _Part) -> Process | None:
    pid = part.read("pid", _integer).value
    kind = part.read("type", lambda text: _PROCESS_KINDS[text[0]]).value
    if pid is None or pid < 1:
        return None
    return Process(
        pid=pid,
        kind=kind or "compute",  # type: ignore[arg-type]
        used_bytes=part.read("used_memory", _size_bytes).value,
        gpu_instance_id=part.read("gpu_instance_id", _integer).value,
        compute_instance_id=part.read("compute_instance_id", _integer).value,
    )


def _environment(part: _Part) -> Environment:
    power = "gpu_power_readings"
    return Environment(
        temperature_c=part.read("temperature/gpu_temp", _integer),
        memory_temperature_c=part.read("temperature/memory_temp", _integer),
        margin_c=part.read("temperature/gpu_temp_tlimit", _integer),
        power_mw=part.first(
            (
                f"{power}/instant_power_draw",
                f"{power}/average_power_draw",
                f"{power}/power_draw",
                "power_readings/power_draw",
            ),
            _milliwatts,
        ),
        power_limit_mw=part.first(
            (f"{power}/current_power_limit", "power_readings/enforced_power_limit"), _milliwatts
        ),
        clock_reasons=_clock_reasons(part),
    )


def _clock_reasons(part: _Part) -> Reading[int]:
    for prefix in _CLOCK_NAMES:
        bits = {bit: part.read(prefix + name, _lower) for name, bit in _CLOCK_BITS.items()}
        if any(one.is_ok for one in bits.values()):
            return part.ok(sum(bit for bit, one in bits.items() if one.value == "active"))
    return part.read("clocks_event_reasons", _nothing)


def _faults(part: _Part) -> Faults:
    def uncorrected(counter: str) -> Reading[int]:
        kinds = ("dram", "sram"), ("", "_parity", "_secded")
        names = (f"{memory}_uncorrectable{kind}" for memory in kinds[0] for kind in kinds[1])
        return part.total(f"ecc_errors/{counter}/{name}" for name in names)

    return Faults(
        recovery_action=part.read("gpu_recovery_action", lambda text: _RECOVERY[text.lower()]),
        is_ecc_enabled=part.read("ecc_mode/current_ecc", _switch),
        ecc_corrected=part.total(
            f"ecc_errors/volatile/{name}" for name in ("dram_correctable", "sram_correctable")
        ),
        ecc_uncorrected=uncorrected("volatile"),
        ecc_uncorrected_aggregate=uncorrected("aggregate"),
        is_sram_threshold_exceeded=part.read(
            "ecc_errors/aggregate/sram_threshold_exceeded", _switch
        ),
        remapped_corrected=part.read("remapped_rows/remapped_row_corr", _integer),
        remapped_uncorrected=part.read("remapped_rows/remapped_row_unc", _integer),
        is_remap_pending=part.read("remapped_rows/remapped_row_pending", _switch),
        has_remap_failed=part.read("remapped_rows/remapped_row_failure", _switch),
        is_retirement_pending=part.read("retired_pages/pending_retirement", _switch),
    )


def _links(part: _Part) -> Links:
    generation, width = "pci/pci_gpu_link_info/pcie_gen", "pci/pci_gpu_link_info/link_widths"
    return Links(
        nvlinks=(),
        nvlink_count=part.absent("NVLink"),
        peers=(),
        pcie_generation=part.read(f"{generation}/current_link_gen", _integer),
        pcie_generation_max=part.read(f"{generation}/max_link_gen", _integer),
        pcie_width=part.read(f"{width}/current_link_width", _integer),
        pcie_width_max=part.read(f"{width}/max_link_width", _integer),
        pcie_replays=part.read("pci/replay_counter", _integer),
    )
