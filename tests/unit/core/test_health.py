"""Verdicts on GPUs: what keeps jobs away, why, and for how long."""

from __future__ import annotations

from typing import Any, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import fields, replace

from mlsched.core.health import (
    EVENT_LIFE_MS,
    RECOVERY_ACTIONS,
    SETTLE_MS,
    Health,
    Verdict,
    assess,
)
from mlsched.model.inventory import HUNG, Gpu, GpuEvent, NvLink, Reading, ReadingStatus

NOW_MS = 1_800_000_000_000
UNSUPPORTED: Reading[Any] = Reading(None, ReadingStatus.UNSUPPORTED, NOW_MS, code=3)


def ok(value: Any, at_ms: int = NOW_MS) -> Reading[Any]:
    return Reading(value, ReadingStatus.OK, at_ms)


def failed(status: ReadingStatus, code: int = 0, detail: str = "") -> Reading[Any]:
    return Reading(None, status, NOW_MS, code=code, detail=detail)


def blank(kind: Any) -> Any:
    """A record whose readings are all unsupported."""
    made = {}
    for field in fields(kind):
        if get_origin(field.type) is Reading:
            made[field.name] = UNSUPPORTED
        elif isinstance(field.type, type) and issubclass(field.type, Struct):
            made[field.name] = blank(field.type)
        elif get_origin(field.type) is tuple:
            made[field.name] = ()
        else:
            made[field.name] = 0 if field.type is int else "dedicated"
    return kind(**made)


def change(gpu: Gpu, part: str, **readings: Any) -> Gpu:
    return replace(gpu, **{part: replace(getattr(gpu, part), **readings)})


@pytest.fixture
def gpu() -> Gpu:
    """A GPU that is well: temperature and recovery action say so."""
    made = replace(blank(Gpu), uuid="GPU-a")
    made = change(made, "identity", uuid=ok("GPU-a"), name=ok("NVIDIA H100 80GB HBM3"))
    made = change(made, "memory", total_bytes=ok(1 << 36))
    made = change(made, "environment", temperature_c=ok(40))
    return change(made, "faults", recovery_action=ok(0))


def xid(code: int, age_ms: int = 0, uuid: str = "GPU-a") -> GpuEvent:
    return GpuEvent(NOW_MS - age_ms, uuid, "xid", code)


def judge(gpu: Gpu, *events: GpuEvent) -> Health:
    return assess(gpu, events, NOW_MS)


def test_a_gpu_that_says_it_is_well_passes_without_a_reason(gpu) -> None:
    assert judge(gpu) == Health(Verdict.PASS, True, "")


def test_silence_is_no_health(gpu) -> None:
    silent = change(gpu, "environment", temperature_c=UNSUPPORTED)
    silent = change(silent, "faults", recovery_action=UNSUPPORTED)
    health = judge(silent)
    assert (health.verdict, health.schedulable) == (Verdict.UNKNOWN, False)
    assert "tells nothing about its health" in health.reason


@pytest.mark.parametrize("status", [ReadingStatus.TRANSIENT, ReadingStatus.ERROR])
@pytest.mark.parametrize(
    ("part", "name"), [("environment", "temperature_c"), ("faults", "recovery_action")]
)
def test_a_vital_reading_that_fails_makes_the_gpu_unknown(gpu, part, name, status) -> None:
    health = judge(change(gpu, part, **{name: failed(status, detail="timeout")}))
    assert (health.verdict, health.schedulable) == (Verdict.UNKNOWN, False)
    assert health.reason == "cannot be read: timeout"


@pytest.mark.parametrize("status", [ReadingStatus.TRANSIENT, ReadingStatus.NO_PERMISSION])
def test_other_readings_may_fail_now_and_then(gpu, status) -> None:
    assert judge(change(gpu, "load", busy_percent=failed(status))).verdict is Verdict.PASS


def test_a_call_that_hung_makes_the_gpu_unknown_whichever_it_was(gpu) -> None:
    hung = failed(ReadingStatus.TRANSIENT, HUNG, "nvmlX did not return")
    assert judge(change(gpu, "load", processes=hung)).verdict is Verdict.UNKNOWN


def test_a_lost_gpu_is_critical_whatever_else_it_says(gpu) -> None:
    health = judge(change(gpu, "environment", temperature_c=failed(ReadingStatus.LOST, 15)))
    assert (health.verdict, health.schedulable) == (Verdict.CRITICAL, False)
    assert "reboot the node" in health.reason


def test_a_required_reset_is_critical(gpu) -> None:
    health = judge(change(gpu, "memory", total_bytes=failed(ReadingStatus.ERROR, 16)))
    assert health.reason == "the driver requires a reset of the GPU"


def test_a_gpu_without_a_uuid_gets_no_jobs(gpu) -> None:
    health = judge(change(gpu, "identity", uuid=failed(ReadingStatus.NO_PERMISSION, 4)))
    assert (health.verdict, health.schedulable) == (Verdict.UNKNOWN, False)


@pytest.mark.parametrize("action", range(1, 8))
def test_every_recovery_action_keeps_jobs_away_and_is_named(gpu, action) -> None:
    health = judge(change(gpu, "faults", recovery_action=ok(action)))
    assert (health.verdict, health.schedulable) == (Verdict.CRITICAL, False)
    assert health.reason == f"the driver wants: {RECOVERY_ACTIONS[action]}"


@pytest.mark.parametrize(
    ("part", "changes", "verdict", "schedulable"),
    [
        ("faults", {"has_remap_failed": ok(True)}, Verdict.CRITICAL, False),
        ("faults", {"is_sram_threshold_exceeded": ok(True)}, Verdict.CRITICAL, False),
        ("faults", {"is_remap_pending": ok(True)}, Verdict.WARNING, True),
        ("faults", {"is_retirement_pending": ok(True)}, Verdict.WARNING, False),
        ("faults", {"ecc_uncorrected": ok(2)}, Verdict.INFO, True),
        ("faults", {"ecc_corrected": ok(9000)}, Verdict.PASS, True),
        ("environment", {"clock_reasons": ok(0x8 | 0x40)}, Verdict.WARNING, True),
        ("environment", {"clock_reasons": ok(0x1 | 0x4 | 0x10)}, Verdict.PASS, True),
        ("links", {"pcie_width": ok(8), "pcie_width_max": ok(16)}, Verdict.INFO, True),
        ("fabric", {"state": ok("in progress")}, Verdict.WARNING, False),
        ("fabric", {"state": ok("completed"), "health": ok("unhealthy")}, Verdict.WARNING, False),
        ("fabric", {"state": ok("completed"), "health": ok("limited")}, Verdict.WARNING, True),
        ("mig", {"is_enabled": ok(False), "is_enabled_next": ok(True)}, Verdict.WARNING, False),
        ("mig", {"is_enabled": ok(True), "is_enabled_next": ok(True)}, Verdict.WARNING, False),
        ("mig", {"is_enabled": ok(False), "is_enabled_next": ok(False)}, Verdict.PASS, True),
    ],
)
def test_readings_and_what_follows(gpu, part, changes, verdict, schedulable) -> None:
    health = judge(change(gpu, part, **changes))
    assert (health.verdict, health.schedulable) == (verdict, schedulable)
    assert bool(health.reason) == (verdict is not Verdict.PASS)


def test_missing_nvlinks_of_a_board_that_has_them_all(gpu) -> None:
    links = tuple(NvLink(n, ok(n < 16), UNSUPPORTED, UNSUPPORTED) for n in range(18))
    health = judge(change(gpu, "links", nvlinks=links))
    assert (health.verdict, health.schedulable) == (Verdict.WARNING, True)
    assert health.reason.startswith("16 of 18 NVLinks are active")
    bridged = change(gpu, "identity", name=ok("NVIDIA H100 PCIe"))
    assert judge(change(bridged, "links", nvlinks=links)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("code", "verdict", "schedulable"),
    [
        (13, Verdict.INFO, True),
        (31, Verdict.INFO, True),
        (94, Verdict.INFO, True),
        (63, Verdict.INFO, True),
        (43, Verdict.INFO, True),
        (45, Verdict.INFO, True),
        (48, Verdict.CRITICAL, False),
        (64, Verdict.CRITICAL, False),
        (95, Verdict.CRITICAL, False),
        (109, Verdict.CRITICAL, False),
        (119, Verdict.CRITICAL, False),
        (54, Verdict.CRITICAL, False),
        (79, Verdict.CRITICAL, False),
        (142, Verdict.CRITICAL, False),
        (74, Verdict.WARNING, True),
        (149, Verdict.WARNING, True),
        (9999, Verdict.WARNING, True),
    ],
)
def test_xids_and_what_follows(gpu, code, verdict, schedulable) -> None:
    health = judge(gpu, xid(code))
    assert (health.verdict, health.schedulable) == (verdict, schedulable)
    assert f"Xid {code}" in health.reason
    assert health.expires_at_ms == NOW_MS + EVENT_LIFE_MS


def test_an_xid_of_another_gpu_says_nothing(gpu) -> None:
    assert judge(gpu, xid(79, uuid="GPU-b")).verdict is Verdict.PASS


def test_evidence_from_events_expires(gpu) -> None:
    assert judge(gpu, xid(79, EVENT_LIFE_MS - 1)).verdict is Verdict.CRITICAL
    assert judge(gpu, xid(79, EVENT_LIFE_MS)).verdict is Verdict.PASS


def test_a_gpu_recovers_when_its_driver_wants_nothing_done_for_a_while(gpu) -> None:
    assert not judge(gpu, xid(48, SETTLE_MS - 1)).schedulable
    health = judge(gpu, xid(48, SETTLE_MS))
    assert (health.verdict, health.schedulable) == (Verdict.INFO, True)
    assert "over" in health.reason
    old_driver = change(gpu, "faults", recovery_action=UNSUPPORTED)
    assert not judge(old_driver, xid(48, SETTLE_MS)).schedulable, "nobody said that it is over"
    assert not judge(gpu, xid(79, SETTLE_MS)).schedulable, "a reboot is needed, not a reset"


def test_a_real_fault_is_not_hidden_by_what_comes_after_it(gpu) -> None:
    health = judge(gpu, xid(62, 2000), xid(45, 1000), xid(43))
    assert "Xid 62" in health.reason
    assert not health.schedulable
    assert {one.signal for one in health.evidence} == {"xid_62", "xid_45", "xid_43"}


def test_repeats_are_counted_and_some_ask_for_the_vendor(gpu) -> None:
    health = judge(gpu, xid(92, 3000), xid(92, 2000), xid(92))
    assert health.verdict is Verdict.WARNING
    assert "3 times" in health.reason
    assert judge(gpu, xid(31), xid(31, 5)).verdict is Verdict.INFO


def test_a_changed_recovery_action_is_unknown_until_it_is_read(gpu) -> None:
    assert judge(gpu, xid(154)).verdict is Verdict.UNKNOWN
    assert judge(gpu, xid(154, 1)).verdict is Verdict.INFO


@pytest.mark.parametrize("kind", ["dbe", "gpu_unavailable", "poison_fatal"])
def test_other_fatal_events_count_like_xids(gpu, kind) -> None:
    assert judge(gpu, GpuEvent(NOW_MS, "GPU-a", kind)).verdict is Verdict.CRITICAL
    assert judge(gpu, GpuEvent(NOW_MS, "GPU-a", "mig_change")).verdict is Verdict.PASS


@given(
    codes=st.lists(st.integers(1, 200), max_size=6),
    action=st.sampled_from([ok(0), ok(2), UNSUPPORTED, failed(ReadingStatus.TRANSIENT)]),
    remap=st.sampled_from([ok(False), ok(True), UNSUPPORTED]),
)
def test_more_evidence_never_makes_a_gpu_better(codes, action, remap) -> None:
    base = replace(blank(Gpu), uuid="GPU-a")
    base = change(base, "identity", uuid=ok("GPU-a"))
    base = change(base, "environment", temperature_c=ok(40))
    base = change(base, "faults", recovery_action=action, has_remap_failed=remap)
    events = [xid(code, number) for number, code in enumerate(codes)]
    order = list(Verdict)
    for count in range(len(events)):
        less, more = judge(base, *events[:count]), judge(base, *events[: count + 1])
        assert order.index(more.verdict) >= order.index(less.verdict)
        assert less.schedulable or not more.schedulable
        assert more == judge(base, *reversed(events[: count + 1])), "the order does not matter"
        if more.verdict in (Verdict.CRITICAL, Verdict.UNKNOWN):
            assert not more.schedulable


@pytest.mark.parametrize(("status", "code"), [(ReadingStatus.LOST, 15), (ReadingStatus.ERROR, 16)])
def test_a_gpu_that_is_lost_is_so_whichever_call_tells_it(gpu, status, code) -> None:
    found = judge(change(gpu, "faults", has_remap_failed=failed(status, code)))
    assert (found.verdict, found.schedulable) == (Verdict.CRITICAL, False)


@pytest.mark.parametrize("status", [ReadingStatus.TRANSIENT, ReadingStatus.ERROR])
def test_a_counter_of_faults_that_cannot_be_read_is_told(gpu, status) -> None:
    found = judge(change(gpu, "faults", has_remap_failed=failed(status, 999, "unknown error")))
    assert (found.verdict, found.schedulable) == (Verdict.WARNING, True)
    assert "cannot be read: unknown error" in found.reason
