"""Judges a GPU: readings and events to a verdict, the evidence for it, and when it can change.

`mlsched.core.inventory` asks before it offers a device, the command line to show why. One table of
signals, in the order of `_RULES`; a GPU is as well as its worst evidence. Silence is no evidence of
health: a GPU that tells nothing is UNKNOWN and gets no jobs. Evidence from events expires.

Source: NVIDIA's Xid catalogue, A100 memory error guide and NVML documentation; where these leave it
open, NVSentinel, Health Validation, gpud and the EKS node agent. Periods are our own choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import groupby
from typing import Any

from msgspec import Struct

from mlsched.model.inventory import HUNG, Gpu, GpuEvent, Reading, ReadingStatus


class Verdict(StrEnum):
    """How a GPU is, from well to broken; UNKNOWN is worse than a warning."""

    PASS = "PASS"
    INFO = "INFO"
    WARNING = "WARNING"
    UNKNOWN = "UNKNOWN"
    CRITICAL = "CRITICAL"


_ORDER = list(Verdict)


class Evidence(Struct, frozen=True):
    """One signal, and what follows from it."""

    signal: str
    verdict: Verdict
    text: str
    at_ms: int
    blocks: bool = False
    """Whether new jobs stay away."""
    expires_at_ms: int | None = None
    """When it stops to count; None as long as the readings say so."""


class Health(Struct, frozen=True):
    """The judgement of one GPU at one moment."""

    verdict: Verdict
    schedulable: bool
    reason: str
    """The evidence that decides, in one line; empty when there is nothing to tell."""
    evidence: tuple[Evidence, ...] = ()
    expires_at_ms: int | None = None
    """When the verdict can change without a new reading."""


DAY_MS = 86_400_000
EVENT_LIFE_MS = DAY_MS
"""How long an Xid counts."""

SETTLE_MS = 600_000
"""A driver that wants nothing done this long after an error that needs a reset has recovered."""

RECOVERY_ACTIONS = {
    1: "reset the GPU",
    2: "reboot the node",
    3: "drain its peer-to-peer traffic",
    4: "drain it, then reset it",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}
"""Meanings of field 230 beyond 0. Source: nvml.h, nvmlDeviceGpuRecoveryAction_t."""

CLOCK_REASONS = {
    0x8: "hardware slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits that tell of a problem; idle, power cap and sync boost are everyday life."""

NVLINKS_EXPECTED = {
    "A100-SXM": 12,
    "H100 80GB HBM3": 18,
    "H200": 18,
    "B200": 18,
    "GB200": 18,
    "GB300": 18,
}
"""Active ports by a part of the name, on boards that always wire all of them."""

_USER = frozenset({8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 94})
_RECORD = frozenset({37, 38, 43, 44, 45, 63, 92, 93, 121, 137, 152, 157, 160, 161})
_REPEATS = frozenset({43, 92, 93, 121, 152, 157})
_RESET = frozenset(
    {46, 48, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158, 162},
)
_NVLINK = frozenset({74, *range(144, 151)})
_CORDON = {
    54: "check the power cable and the seating of the board",
    79: "fell off the bus; reboot the node, replace it when this repeats",
    142: "contact the vendor",
    151: "restart the virtual machine",
}

_MEANINGS = {
    13: "error in a kernel",
    31: "memory access fault",
    43: "a job's work was stopped",
    45: "a job's work was cleaned up",
    48: "uncorrectable memory error",
    62: "power controller stopped",
    63: "memory row remapped",
    64: "memory row could not be remapped",
    74: "NVLink error",
    92: "many corrected memory errors",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timed out",
    119: "the GPU's own processor does not answer",
    120: "error of the GPU's own processor",
    140: "unrecovered memory error",
    154: "the wanted recovery action changed",
}

_FATAL_KINDS = {
    "dbe": "uncorrectable memory error",
    "dram_retirement_failed": "memory row could not be retired",
    "poison_fatal": "fatal memory poison",
    "gpu_unavailable": "the driver says that it is unavailable",
}
"""Kinds of events that count as an Xid which needs a reset; the other kinds are only kept."""


def assess(gpu: Gpu, events: Iterable[GpuEvent], now_ms: int) -> Health:
    """Judge one GPU.

    Args:
        gpu: Its readings.
        events: Of any GPUs, in any order; those of others and expired ones do not count.
        now_ms: Unix time.
    """
    evidence = [one for rule in _RULES for one in rule(gpu)]
    evidence += _from_events(gpu, events, now_ms)
    if not evidence:
        return Health(Verdict.PASS, True, "")
    evidence.sort(key=lambda one: (-one.blocks, -_ORDER.index(one.verdict), -one.at_ms))
    blocked = evidence[0].blocks
    worst = max((one.verdict for one in evidence), key=_ORDER.index)
    ends = [one.expires_at_ms for one in evidence if one.expires_at_ms is not None]
    reason = evidence[0].text if worst is not Verdict.PASS else ""
    return Health(worst, not blocked, reason, tuple(evidence), min(ends, default=None))


def _critical(signal: str, text: str, reading: Reading[int] | Reading[bool]) -> Evidence:
    return Evidence(signal, Verdict.CRITICAL, text, reading.at_ms, blocks=True)


def _warning(signal: str, text: str, at_ms: int, *, blocks: bool = False) -> Evidence:
    return Evidence(signal, Verdict.WARNING, text, at_ms, blocks)


def _is(reading: Reading[bool]) -> bool:
    return reading.is_ok and bool(reading.value)


def _answers(gpu: Gpu) -> Iterator[Evidence]:
    """Whether the GPU answers at all. Without that nothing else counts."""
    vital = (
        gpu.identity.uuid,
        gpu.memory.total_bytes,
        gpu.environment.temperature_c,
        gpu.faults.recovery_action,
        gpu.mig.is_enabled,
        gpu.mig.slots,
    )
    every: tuple[Reading[Any], ...] = (*vital, *_volatile(gpu))
    lost = [one for one in every if one.status is ReadingStatus.LOST]
    reset = [one for one in every if one.code == _RESET_REQUIRED]
    doubtful = [one for one in vital if one.status in _DOUBTFUL]
    doubtful += [one for one in _volatile(gpu) if one.code == HUNG]
    if lost:
        text = "lost: it does not answer on the bus; reboot the node"
        yield Evidence("lost", Verdict.CRITICAL, text, lost[0].at_ms, blocks=True)
    elif reset:
        text = "the driver requires a reset of the GPU"
        yield Evidence("reset_required", Verdict.CRITICAL, text, reset[0].at_ms, blocks=True)
    elif doubtful:
        text = f"cannot be read: {doubtful[0].detail or doubtful[0].status}"
        yield Evidence("unreadable", Verdict.UNKNOWN, text, doubtful[0].at_ms, blocks=True)
    elif not gpu.identity.uuid.is_ok:
        text = f"it does not tell its UUID ({gpu.identity.uuid.status})"
        yield Evidence("no_uuid", Verdict.UNKNOWN, text, gpu.identity.uuid.at_ms, blocks=True)
    elif not _tells_of_health(gpu):
        text = "the driver tells nothing about its health"
        yield Evidence("silent", Verdict.UNKNOWN, text, gpu.identity.uuid.at_ms, blocks=True)
    else:
        yield from _unread_faults(gpu)


def _unread_faults(gpu: Gpu) -> Iterator[Evidence]:
    """A counter of faults that failed to be read: one bad answer blocks nothing, but is told."""
    names = gpu.faults.__struct_fields__
    failed = [name for name in names if getattr(gpu.faults, name).status in _DOUBTFUL]
    if failed:
        first: Reading[Any] = getattr(gpu.faults, failed[0])
        text = f"{failed[0].replace('_', ' ')} cannot be read: {first.detail or first.status}"
        yield _warning("faults_unread", text, first.at_ms)


_RESET_REQUIRED = 16
_DOUBTFUL = (ReadingStatus.TRANSIENT, ReadingStatus.ERROR)


def _volatile(gpu: Gpu) -> Iterator[Reading[Any]]:
    """What changes; a call among these that hung says that the driver is in trouble."""
    for part in (gpu.load, gpu.environment, gpu.faults, gpu.fabric):
        yield from (getattr(part, name) for name in part.__struct_fields__)


def _tells_of_health(gpu: Gpu) -> bool:
    faults = gpu.faults
    told: tuple[Reading[int] | Reading[bool], ...] = (
        faults.recovery_action,
        faults.has_remap_failed,
        faults.ecc_uncorrected,
        faults.is_retirement_pending,
        gpu.environment.temperature_c,
        gpu.environment.power_mw,
    )
    return any(one.is_ok for one in told)


def _recovery(gpu: Gpu) -> Iterator[Evidence]:
    """Source: NVML documentation of field 230, driver 570 and newer."""
    reading = gpu.faults.recovery_action
    if reading.is_ok and reading.value:
        wanted = RECOVERY_ACTIONS.get(reading.value, f"recovery action {reading.value}")
        yield _critical("recovery_action", f"the driver wants: {wanted}", reading)


def _memory_faults(gpu: Gpu) -> Iterator[Evidence]:
    """Source: NVIDIA A100 GPU memory error management; retired pages for older products."""
    faults = gpu.faults
    if _is(faults.has_remap_failed):
        text = "a memory row could not be remapped; run field diagnostics"
        yield _critical("remap_failed", text, faults.has_remap_failed)
    if _is(faults.is_sram_threshold_exceeded):
        text = "too many errors in on-chip memory; replace the board"
        yield _critical("sram_threshold", text, faults.is_sram_threshold_exceeded)
    if _is(faults.is_remap_pending):
        text = "a memory row waits to be remapped; reset the GPU when it is idle"
        yield _warning("remap_pending", text, faults.is_remap_pending.at_ms)
    if _is(faults.is_retirement_pending):
        text = "memory pages wait to be retired; reboot the node when it is idle"
        yield _warning("retirement_pending", text, faults.is_retirement_pending.at_ms, blocks=True)
    if faults.ecc_uncorrected.is_ok and faults.ecc_uncorrected.value:
        text = f"{faults.ecc_uncorrected.value} uncorrectable memory errors since the driver loaded"
        at_ms = faults.ecc_uncorrected.at_ms
        yield Evidence("ecc_uncorrected", Verdict.INFO, text, at_ms)


def _clocks(gpu: Gpu) -> Iterator[Evidence]:
    reasons = gpu.environment.clock_reasons
    slow = [text for bit, text in CLOCK_REASONS.items() if reasons.is_ok and _bits(reasons) & bit]
    if slow:
        yield _warning("clocks", f"slowed down: {', '.join(slow)}", reasons.at_ms)


def _bits(reading: Reading[int]) -> int:
    return reading.value or 0


def _links(gpu: Gpu) -> Iterator[Evidence]:
    width, most = gpu.links.pcie_width, gpu.links.pcie_width_max
    if width.is_ok and most.is_ok and _bits(width) < _bits(most):
        text = f"PCIe x{width.value} of x{most.value}: wired so, or the board is loose"
        yield Evidence("pcie_width", Verdict.INFO, text, width.at_ms)
    expected = nvlinks_expected(gpu.identity.name.value or "")
    told = [one for one in gpu.links.nvlinks if one.is_active.is_ok]
    active = sum(1 for one in told if one.is_active.value)
    if told and active < expected and not _is(gpu.mig.is_enabled):
        text = f"{active} of {expected} NVLinks are active: jobs on several GPUs are slower"
        yield _warning("nvlink", text, told[0].is_active.at_ms)


def nvlinks_expected(name: str) -> int:
    """Active NVLink ports that a product of this name has; 0 when that depends on the board."""
    return next((count for part, count in NVLINKS_EXPECTED.items() if part in name), 0)


def _fabric(gpu: Gpu) -> Iterator[Evidence]:
    """CUDA does not start on a board with NVSwitch before its fabric is complete."""
    state, health = gpu.fabric.state, gpu.fabric.health
    if state.is_ok and state.value in ("not started", "in progress"):
        text = f"its NVLink fabric is {state.value}; check the fabric manager"
        yield _warning("fabric_state", text, state.at_ms, blocks=True)
    if health.is_ok and health.value == "unhealthy":
        yield _warning("fabric_health", "its NVLink fabric is unhealthy", health.at_ms, blocks=True)
    if health.is_ok and health.value == "limited":
        yield _warning("fabric_health", "its NVLink fabric has limited capacity", health.at_ms)


def _mig(gpu: Gpu) -> Iterator[Evidence]:
    mode, pending = gpu.mig.is_enabled, gpu.mig.is_enabled_next
    if mode.is_ok and pending.is_ok and mode.value != pending.value:
        wanted = "on" if pending.value else "off"
        text = f"MIG mode is to be switched {wanted}; reset the GPU first"
        yield _warning("mig_pending", text, pending.at_ms, blocks=True)
    elif _is(mode) and not gpu.mig.instances:
        text = "MIG mode is on and there is no instance: nothing to give"
        yield _warning("mig_empty", text, mode.at_ms, blocks=True)


_RULES: tuple[Callable[[Gpu], Iterator[Evidence]], ...] = (
    _answers,
    _recovery,
    _memory_faults,
    _clocks,
    _links,
    _fabric,
    _mig,
)


def _from_events(gpu: Gpu, events: Iterable[GpuEvent], now_ms: int) -> list[Evidence]:
    """One piece of evidence for each kind and code: the newest, and how often."""
    own = [e for e in events if e.uuid == gpu.uuid and now_ms - e.at_ms < EVENT_LIFE_MS]
    own.sort(key=lambda event: (event.kind, event.code, event.at_ms))
    found: list[Evidence] = []
    for _, several in groupby(own, key=lambda event: (event.kind, event.code)):
        same = list(several)
        made = _from_event(gpu, same[-1], len(same))
        if made is not None:
            found.append(made)
    return found


def _from_event(gpu: Gpu, event: GpuEvent, count: int) -> Evidence | None:
    if event.kind in _FATAL_KINDS:
        return _needs_reset(gpu, event, _FATAL_KINDS[event.kind], count)
    if event.kind != "xid":
        return None
    code = event.code
    name = f"Xid {code}" + (f" ({_MEANINGS[code]})" if code in _MEANINGS else "")
    name += f", {count} times" if count > 1 else ""
    return _XIDS.get(code, _strange)(gpu, event, name, count)


def _user(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    return _kept(event, Verdict.INFO, f"{name}: most often an error of the job")


def _record(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    if event.code in _REPEATS and count > 1:
        return _kept(event, Verdict.WARNING, f"{name}: contact the vendor if it goes on")
    return _kept(event, Verdict.INFO, name)


def _cordon(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    return _kept(event, Verdict.CRITICAL, f"{name}: {_CORDON[event.code]}", blocks=True)


def _nvlink(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    return _kept(event, Verdict.WARNING, f"{name}: the recovery action tells what to do")


def _strange(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    return _kept(event, Verdict.WARNING, f"{name}: not in the table of known Xids")


def _kept(event: GpuEvent, verdict: Verdict, text: str, *, blocks: bool = False) -> Evidence:
    signal = f"xid_{event.code}" if event.kind == "xid" else event.kind
    return Evidence(signal, verdict, text, event.at_ms, blocks, event.at_ms + EVENT_LIFE_MS)


def _needs_reset(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    """Blocks until the driver has wanted nothing done for a while, or the event expires."""
    reading = gpu.faults.recovery_action
    if reading.is_ok and reading.value == 0 and reading.at_ms >= event.at_ms + SETTLE_MS:
        return _kept(event, Verdict.INFO, f"{name}: over, the driver wants nothing done")
    return _kept(event, Verdict.CRITICAL, f"{name}: drain it and reset it", blocks=True)


def _recovery_changed(gpu: Gpu, event: GpuEvent, name: str, count: int) -> Evidence:
    """The action itself is a reading; until it was read again nobody knows it."""
    if gpu.faults.recovery_action.at_ms > event.at_ms:
        return _kept(event, Verdict.INFO, name)
    return _kept(event, Verdict.UNKNOWN, f"{name} and was not read yet", blocks=True)


_XIDS: dict[int, Callable[[Gpu, GpuEvent, str, int], Evidence]] = {
    **dict.fromkeys(_USER, _user),
    **dict.fromkeys(_RECORD, _record),
    **dict.fromkeys(_RESET, _needs_reset),
    **dict.fromkeys(_CORDON, _cordon),
    **dict.fromkeys(_NVLINK, _nvlink),
    154: _recovery_changed,
}
"""What each Xid means here. Source: NVIDIA Xid catalogue; 162 from NVSentinel."""
