"""From an inventory to what jobs can be given, and back when the driver falls silent."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mlsched.core.inventory import (
    EVENTS_MAX,
    carry_over,
    describe_shortage,
    placeable_devices,
    with_events,
)
from mlsched.model.inventory import GpuEvent, Mig, Reading, ReadingStatus

NOW_MS = 1_800_000_000_000


def test_devices_come_in_the_order_of_the_pci_bus(make_gpu, make_inventory) -> None:
    gpus = [replace(make_gpu(number), index=7 - number) for number in (5, 0, 3)]
    devices = placeable_devices(make_inventory(*gpus), NOW_MS)
    assert [device.uuid for device in devices] == [make_gpu(n).uuid for n in (0, 3, 5)]
    assert devices == placeable_devices(make_inventory(*reversed(gpus)), NOW_MS)


def test_instances_stand_in_place_of_their_gpu_in_the_order_of_slots(
    make_gpu, make_inventory
) -> None:
    devices = placeable_devices(make_inventory(make_gpu(0, (4, 0)), make_gpu(1)), NOW_MS)
    assert [(one.profile, one.memory_bytes >> 30) for one in devices] == [
        ("1g.10gb", 10),
        ("1g.10gb", 10),
        ("", 80),
    ]
    assert devices[0].uuid.startswith("MIG-00000000-0000")
    assert devices[0].parent_uuid == make_gpu(0).uuid
    assert devices[0].model == "NVIDIA H100 80GB HBM3"


def test_mig_mode_without_instances_gives_nothing_and_says_so(make_gpu, make_inventory) -> None:
    gpu = make_gpu(0, (0,))
    gpu = replace(gpu, mig=replace(gpu.mig, instances=()))
    inventory = make_inventory(gpu)
    assert placeable_devices(inventory, NOW_MS) == ()
    assert "MIG mode is on and there is no instance" in describe_shortage(inventory, NOW_MS)


def test_an_instance_of_unknown_size_gets_no_jobs(make_gpu, make_inventory) -> None:
    gpu = make_gpu(0, (0,))
    unknown = Reading(None, ReadingStatus.ERROR, NOW_MS)
    instance = replace(gpu.mig.instances[0], profile=unknown)
    gpu = replace(gpu, mig=replace(gpu.mig, instances=(instance,)))
    (device,) = placeable_devices(make_inventory(gpu), NOW_MS)
    assert not device.healthy
    assert device.is_mig


def test_a_placeholder_is_never_given_out(make_lost, make_inventory) -> None:
    inventory = make_inventory(make_lost(2))
    assert placeable_devices(inventory, NOW_MS) == ()
    assert describe_shortage(inventory, NOW_MS).startswith("index-2: lost")


def test_the_note_of_an_empty_machine_is_passed_on(make_inventory) -> None:
    assert describe_shortage(make_inventory(note="no driver"), NOW_MS) == "no driver"
    assert describe_shortage(make_inventory(), NOW_MS) == ""


def test_a_warning_is_told_and_does_not_keep_jobs_away(make_gpu, make_inventory) -> None:
    gpu = make_gpu(faults={"is_remap_pending": True})
    (device,) = placeable_devices(make_inventory(gpu), NOW_MS)
    assert device.healthy
    assert "waits to be remapped" in device.health_reason


def test_a_lost_gpu_is_known_by_its_place(make_gpu, make_lost, make_inventory) -> None:
    before = make_inventory(*(make_gpu(number) for number in range(4)))
    after = make_inventory(make_gpu(0), make_gpu(1), make_lost(2), make_gpu(3))
    found = carry_over(before, after)
    assert [gpu.uuid for gpu in found.gpus] == [gpu.uuid for gpu in before.gpus]
    assert found.gpus[2].identity == before.gpus[2].identity
    assert found.gpus[2].load.busy_percent.status is ReadingStatus.LOST
    devices = placeable_devices(found, NOW_MS)
    assert [device.healthy for device in devices] == [True, True, False, True]
    again = carry_over(found, after)
    assert again == found, "it stays known for as long as it stays lost"


def test_a_lost_gpu_in_the_place_of_one_that_answers_is_nobody(
    make_gpu, make_lost, make_inventory
) -> None:
    before = make_inventory(make_gpu(0), make_gpu(1))
    moved = make_inventory(make_lost(0), replace(make_gpu(0), index=1), make_gpu(1))
    found = carry_over(before, moved)
    assert not found.gpus[0].is_identified


def test_a_driver_that_falls_silent_takes_no_devices_away(make_gpu, make_inventory) -> None:
    before = make_inventory(make_gpu(0, (0, 3)), make_gpu(1))
    silent = replace(make_inventory(note="the driver hangs"), taken_at_ms=NOW_MS + 5000)
    found = carry_over(before, silent)
    known = placeable_devices(before, NOW_MS)
    devices = placeable_devices(found, NOW_MS + 5000)
    assert [(d.uuid, d.memory_bytes) for d in devices] == [(d.uuid, d.memory_bytes) for d in known]
    assert not any(device.healthy for device in devices)
    assert "the driver hangs" in devices[0].health_reason
    load = found.gpus[1].load.busy_percent
    assert (load.value, load.status) == (None, ReadingStatus.TRANSIENT)
    assert found.gpus[1].identity.name.at_ms == NOW_MS


def test_what_is_read_anew_replaces_what_was_known(make_gpu, make_inventory) -> None:
    before = make_inventory(make_gpu(0))
    after = make_inventory(make_gpu(0, identity={"name": "NVIDIA H200"}), make_gpu(1))
    assert carry_over(before, after) == after
    assert carry_over(None, after) == after


def test_mig_instances_that_are_gone_are_gone(make_gpu, make_inventory) -> None:
    after = make_inventory(make_gpu(0))
    assert carry_over(make_inventory(make_gpu(0, (0, 1))), after) == after


def test_an_instance_layout_that_cannot_be_read_stays(make_gpu, make_inventory, lost) -> None:
    gpu = replace(make_gpu(0), mig=Mig(lost, lost, lost))
    before = make_inventory(make_gpu(0, (0, 1)))
    found = carry_over(before, make_inventory(gpu))
    assert found.gpus[0].mig == before.gpus[0].mig


def test_events_are_kept_once_in_their_order_and_not_for_ever(make_inventory) -> None:
    first = GpuEvent(NOW_MS - 2, "GPU-a", "xid", 62)
    second = GpuEvent(NOW_MS - 1, "GPU-a", "xid", 45)
    old = GpuEvent(NOW_MS - 90_000_000, "GPU-a", "xid", 79)
    inventory = with_events(make_inventory(), [second, first, second, old])
    assert inventory.events == (first, second)
    assert with_events(inventory, [first]) == inventory
    many = [GpuEvent(NOW_MS - 1, "GPU-a", "xid", code) for code in range(EVENTS_MAX + 5)]
    assert len(with_events(make_inventory(), many).events) == EVENTS_MAX


def test_a_noisy_gpu_does_not_hide_what_another_one_told(make_inventory) -> None:
    fault = GpuEvent(NOW_MS - 10_000, "GPU-a", "xid", 79)
    noise = [GpuEvent(NOW_MS - 9_999 + n, "GPU-b", "xid", 31) for n in range(5 * EVENTS_MAX)]
    found = with_events(make_inventory(), [fault, *noise]).events
    assert fault in found
    assert found[-1] == noise[-1]


@pytest.mark.parametrize("status", [ReadingStatus.ERROR, ReadingStatus.NO_PERMISSION])
def test_a_device_keeps_its_size_and_instances_when_a_call_fails(
    make_gpu, make_inventory, status
) -> None:
    """A GPU that needs a reset, say: what it is does not change, and it gets no new jobs."""
    failing: Reading[Any] = Reading(None, status, NOW_MS, code=16)
    whole, split = make_gpu(0), make_gpu(1, (0, 2))
    memory = replace(whole.memory, total_bytes=failing)
    identity = replace(whole.identity, name=failing)
    now = make_inventory(
        replace(whole, memory=memory, identity=identity),
        replace(split, mig=replace(split.mig, slots=failing, instances=())),
    )
    found = carry_over(make_inventory(whole, split), now)
    assert found.gpus[0].memory.total_bytes == whole.memory.total_bytes
    assert found.gpus[0].identity.name == whole.identity.name
    assert found.gpus[1].mig.instances == split.mig.instances
