"""Reads the whole machine: start NVML, then one GPU after the other, then pairs of GPUs.

Nothing that one GPU does keeps the others from being read. The caller says where the binding, the
clock and the kernel's files come from: a live driver or a recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from mlsched.adapters.nvml.bindings import INIT_NOTES, describe_binding
from mlsched.adapters.nvml.doors import Clock, Door, describe_code
from mlsched.adapters.nvml.guards import Guard
from mlsched.adapters.nvml.hosts import Host
from mlsched.adapters.nvml.links import read_peers
from mlsched.adapters.nvml.readers import read_gpu
from mlsched.model.inventory import CallStatistics, Gpu, Inventory, Reading, ReadingStatus

GPUS_MAX = 256
"""More than any machine has; bounds the loop against a driver that answers nonsense."""


class Session(Struct):
    """What a reading is made with."""

    nvml: Any
    clock: Clock
    host: Host
    guard: Guard
    source: Literal["nvml", "recording"]
    report: Callable[[str], None]
    """Told what is asked next, for whoever waits when the process hangs or dies."""


def read_inventory(session: Session) -> Inventory:
    """Everything that the driver tells; never raises for what a driver does."""
    session.report("starting NVML")
    system = Door(session.nvml, session.clock)
    inventory, count = session.guard.run(system, lambda door: _read_system(session, door))
    doors = [system]
    found: list[tuple[Gpu, Any]] = []
    for index in range(count):
        session.report(f"reading GPU {index}")
        door = Door(session.nvml, session.clock)
        found.append(session.guard.run(door, _reader_of_gpu(session, index, inventory.driver)))
        doors.append(door)
    session.report("reading the paths between GPUs")
    gpus = tuple(_with_peers(session, gpu, handle, found, doors) for gpu, handle in found)
    return replace(
        inventory, gpus=gpus, note=_note(session, inventory, gpus), calls=_statistics(doors)
    )


def _read_system(session: Session, door: Door) -> tuple[Inventory, int]:
    init: Reading[Any] = door.call("nvmlInitWithFlags", 0)
    if not init.is_ok:
        door.refuse(init)
    inventory = Inventory(
        driver=door.text("nvmlSystemGetDriverVersion"),
        nvml=door.text("nvmlSystemGetNVMLVersion"),
        cuda=door.call("nvmlSystemGetCudaDriverVersion_v2", then=_cuda_version),
        source=session.source,
        taken_at_ms=session.clock.now_ms(),
        binding=describe_binding(session.nvml) if session.source == "nvml" else "",
    )
    count: Reading[int] = door.call("nvmlDeviceGetCount", then=int)
    if not init.is_ok:
        why = INIT_NOTES.get(init.code) or f"NVML does not start: {init.detail}"
        return replace(inventory, note=why), 0
    if not count.is_ok:
        return replace(inventory, note=f"the driver does not count its GPUs: {count.detail}"), 0
    return inventory, min(count.value or 0, GPUS_MAX)


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _reader_of_gpu(
    session: Session, index: int, driver: Reading[str]
) -> Callable[[Door], tuple[Gpu, Any]]:
    return lambda door: read_gpu(door, index, session.host, driver)


def _with_peers(
    session: Session, gpu: Gpu, handle: Any, found: list[tuple[Gpu, Any]], doors: list[Door]
) -> Gpu:
    """Silent GPUs are asked nothing more: each question could hang again."""
    usable = [(one.uuid, other) for one, other in found if _answers(one, other)]
    others = [pair for pair in usable if pair[0] != gpu.uuid]
    if not others or not _answers(gpu, handle):
        return gpu
    door = Door(session.nvml, session.clock)
    doors.append(door)
    peers = session.guard.run(door, lambda one: read_peers(one, handle, others))
    return replace(gpu, links=replace(gpu.links, peers=peers))


def _answers(gpu: Gpu, handle: Any) -> bool:
    silent = (ReadingStatus.LOST, ReadingStatus.TRANSIENT)
    told = (gpu.identity.uuid.status, gpu.environment.temperature_c.status, gpu.fabric.state.status)
    return handle is not None and not any(status in silent for status in told)


def _note(session: Session, inventory: Inventory, gpus: tuple[Gpu, ...]) -> str:
    if inventory.note:
        return f"{inventory.note}: CPU jobs only"
    driver, nvml = inventory.driver.value or "", inventory.nvml.value or ""
    if driver and nvml and driver.split(".")[0] not in nvml.split(".")[:2]:
        return f"the driver is {driver} and its library is of another one ({nvml})"
    if session.guard.hung:
        return f"the driver hangs in {session.guard.hung[0]}"
    return "" if gpus else "the driver has no GPU: CPU jobs only"


def _statistics(doors: list[Door]) -> CallStatistics:
    answers = [answer for door in doors for answer in door.answers]
    return CallStatistics(
        count=len(answers),
        took_us=sum(one.took_us for one in answers),
        failed=sum(1 for one in answers if not one.is_ok),
    )


def empty_inventory(
    note: str, at_ms: int, status: ReadingStatus = ReadingStatus.TRANSIENT, code: int = 0
) -> Inventory:
    """An inventory that says only why there is nothing in it."""
    detail = note if code == 0 else describe_code(code)
    reading: Reading[str] = Reading(None, status, at_ms, code=code, detail=detail)
    return Inventory(reading, reading, reading, "nvml", at_ms, note=note)
