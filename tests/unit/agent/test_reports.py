"""What an agent publishes, and what it finds worth publishing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mlsched.adapters.kubernetes.gpunodes import GpuNodeStatus, encode_status
from mlsched.agent.reports import build_status, events_of, fingerprint
from mlsched.model.inventory import GpuEvent, Inventory, Reading, ReadingStatus
from tests.unit.inventories import NOW_MS, inventory

XID = GpuEvent(NOW_MS, "GPU-0", "xid", 79)


def status(read: Inventory, holders: dict[str, str] | None = None) -> GpuNodeStatus:
    return build_status(read, holders or {}, "boot-1", NOW_MS)


def matters(before: Inventory, after: Inventory) -> bool:
    return fingerprint(status(before), NOW_MS) != fingerprint(status(after), NOW_MS)


def changed(read: Inventory, part: str, field: str, value: Any) -> Inventory:
    gpu = read.gpus[0]
    new = replace(getattr(gpu, part), **{field: value})
    return replace(read, gpus=(replace(gpu, **{part: new}), *read.gpus[1:]))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("load", "busy_percent", 99),
        ("environment", "temperature_c", 61),
        ("environment", "power_mw", 650_000),
        ("memory", "used_bytes", 5 << 30),
        ("memory", "free_bytes", 5 << 30),
        ("faults", "ecc_corrected", 7),
        ("links", "pcie_generation", 1),
        ("links", "pcie_replays", 3),
    ],
)
def test_noise_is_not_worth_a_write(part: str, field: str, value: int) -> None:
    read = inventory(2)
    reading = Reading(value, ReadingStatus.OK, NOW_MS + 5)
    assert not matters(read, changed(read, part, field, reading))


def test_the_time_of_a_reading_is_not_worth_a_write() -> None:
    read = inventory(2)
    uuid = replace(read.gpus[0].identity.uuid, at_ms=NOW_MS + 9, took_us=77)
    later = changed(replace(read, taken_at_ms=NOW_MS + 9), "identity", "uuid", uuid)
    assert not matters(read, later)


def test_what_placement_and_health_follow_from_is_worth_a_write() -> None:
    read = inventory(2)
    ok = ReadingStatus.OK
    assert matters(read, replace(read, gpus=read.gpus[:1]))
    assert matters(read, replace(read, events=(XID,)))
    assert matters(read, changed(read, "faults", "is_remap_pending", Reading(True, ok, 1)))
    assert matters(read, changed(read, "memory", "total_bytes", Reading(1 << 30, ok, 1)))
    assert matters(read, replace(read, driver=Reading("999", ok, 1)))
    silent: Reading[int] = Reading(None, ReadingStatus.LOST, 1, code=15)
    assert matters(read, changed(read, "environment", "temperature_c", silent))


def test_who_holds_what_is_worth_a_write() -> None:
    read = inventory(1)
    free, held = status(read), status(read, {"GPU-0": "team/train-1-0"})
    assert fingerprint(free, NOW_MS) != fingerprint(held, NOW_MS)


def test_an_event_that_expired_is_worth_a_write() -> None:
    told = status(replace(inventory(1), events=(XID,)))
    assert fingerprint(told, NOW_MS) != fingerprint(told, NOW_MS + 2 * 86_400_000)


def test_the_summary_counts_gpus_that_take_jobs() -> None:
    summary = status(replace(inventory(3), events=(XID,))).summary
    assert (summary.gpus, summary.healthy, summary.driver) == (3, 2, "580")


def test_a_published_status_is_read_back_as_it_was() -> None:
    made = status(replace(inventory(2), events=(XID,)), {"GPU-1": "a/b"})
    encoded = msgspec.json.encode(encode_status(made))
    found = msgspec.json.decode(encoded, type=GpuNodeStatus)
    assert found.inventory is not None
    assert made.inventory is not None
    assert fingerprint(found, NOW_MS) == fingerprint(made, NOW_MS)
    assert found.inventory.gpus[0].load == made.inventory.gpus[0].load
    assert found.inventory.gpus[0].environment == made.inventory.gpus[0].environment
    assert (found.published_at, found.boot_id) == ("2027-01-15T08:00:00Z", "boot-1")


def test_a_gpu_costs_less_than_ten_kilobytes() -> None:
    one, two = (len(msgspec.json.encode(encode_status(status(inventory(n))))) for n in (1, 2))
    assert two - one < 10_000


def test_events_of_this_boot_are_taken_over_and_no_others() -> None:
    made = status(replace(inventory(1), events=(XID,)))
    assert events_of(made, "boot-1") == (XID,)
    assert events_of(made, "boot-2") == ()
    assert events_of(None, "boot-1") == ()
