"""How GPUs are shown: on 80 columns, without a zero where nothing is known, and whole as data."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from mlsched.cli.render.gpus import format_gpus, list_uuids, to_plain
from mlsched.model.inventory import GpuEvent, Reading, ReadingStatus

NOW_MS = 1_800_000_000_000
LAYOUT = {"width": 80}


def test_a_machine_fits_in_80_columns(make_gpu, make_inventory) -> None:
    gpus = [make_gpu(number) for number in range(8)]
    gpus[5] = make_gpu(5, faults={"recovery_action": 4})
    text = format_gpus(
        make_inventory(*gpus), {gpus[1].uuid: "train-7"}, layout={**LAYOUT, "color": False}
    )
    lines = text.splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) <= 80
    heads = "GPU UUID MODEL MEMORY UTIL TEMP HOLDER HEALTH"
    assert lines[0].split() == heads.split()
    row = "1 GPU-00000001 H100 80GB HBM3 0.0/80.0G 0% 40C train-7 PASS"
    assert lines[2].split() == row.split()
    assert lines[6].endswith("CRITICAL")
    assert lines[9] == "GPU 5 CRITICAL: the driver wants: drain it, then reset it"


def test_a_short_uuid_tells_gpus_apart(make_gpu, make_inventory) -> None:
    same = [
        replace(make_gpu(n), uuid=f"GPU-00000000-1111-2222-3333-00000000000{n}") for n in range(2)
    ]
    text = format_gpus(make_inventory(*same), {})
    assert all(gpu.uuid in text for gpu in same)


def test_instances_stand_below_their_gpu_with_their_holders(make_gpu, make_inventory) -> None:
    gpu = make_gpu(0, (0, 3))
    holder = {gpu.mig.instances[1].uuid: "nb-2"}
    lines = format_gpus(make_inventory(gpu), holder).splitlines()
    assert lines[2].startswith("0/0  MIG-00000000")
    assert lines[3].startswith("0/3  MIG-00000000")
    assert "MIG 1g.10gb" in lines[3]
    assert "1.0/10.0G" in lines[3]
    assert "nb-2" in lines[3]


def test_what_is_not_known_is_never_zero(make_gpu, make_lost, make_inventory) -> None:
    def without(status: ReadingStatus) -> Reading[int]:
        return Reading(None, status, NOW_MS)

    gpu = make_gpu(
        load={"busy_percent": without(ReadingStatus.UNSUPPORTED)},
        environment={"temperature_c": without(ReadingStatus.TRANSIENT)},
        memory={"used_bytes": without(ReadingStatus.NO_PERMISSION)},
    )
    lines = format_gpus(make_inventory(gpu, make_lost(1)), {}).splitlines()
    assert "denied/80.0G  -     ?" in lines[1]
    assert "UNKNOWN" in lines[1]
    assert lines[2].startswith("1    index-1")
    assert "lost  lost" in lines[2]
    assert lines[2].endswith("CRITICAL")
    assert "GPU 0 UNKNOWN, no new jobs: cannot be read: transient" in lines
    assert any(line.startswith("GPU 1 CRITICAL: lost") for line in lines)


def test_gpus_with_the_same_reason_are_told_together(make_gpu, make_inventory) -> None:
    gpus = [make_gpu(number, faults={"is_remap_pending": True}) for number in range(3)]
    lines = format_gpus(make_inventory(*gpus), {}).splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("GPU 0, 1, 2 WARNING: a memory row waits")


def test_unified_memory_is_called_shared(make_gpu, make_inventory) -> None:
    assert "80.0G shared" in format_gpus(make_inventory(make_gpu(memory={"kind": "unified"})), {})


def test_a_machine_without_a_driver_is_one_line(make_inventory) -> None:
    assert format_gpus(make_inventory(note="no driver: CPU jobs only"), {}) == (
        "no driver: CPU jobs only"
    )


def test_a_note_about_all_gpus_stands_below_them(make_gpu, make_inventory) -> None:
    text = format_gpus(make_inventory(make_gpu(), note="the driver hangs"), {})
    assert text.splitlines()[-1] == "the driver hangs"


def test_wide_has_whole_uuids_addresses_and_power(make_gpu, make_inventory) -> None:
    gpu = make_gpu(3)
    line = format_gpus(make_inventory(gpu), {}, wide=True).splitlines()[1]
    assert gpu.uuid in line
    assert "00000000:13:00.0" in line
    assert "70W" in line


def test_names_from_a_driver_cannot_move_the_cursor(make_gpu, make_inventory) -> None:
    gpu = make_gpu(identity={"name": "\x1b[2JH100\n0"})
    text = format_gpus(make_inventory(gpu), {})
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_data_has_every_reading_with_health_and_holder(make_gpu, make_inventory) -> None:
    gpu, mig = make_gpu(0), make_gpu(1, (2,))
    event = GpuEvent(NOW_MS, gpu.uuid, "xid", 79)
    inventory = make_inventory(gpu, mig, events=(event,))
    plain = to_plain(inventory, {gpu.uuid: "a", mig.mig.instances[0].uuid: "b"})
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain
    first, second = plain["gpus"]
    reading = first["environment"]["temperature_c"]
    assert (reading["value"], reading["status"], reading["at_ms"]) == (40, "ok", NOW_MS)
    assert first["load"]["memory_busy_percent"]["value"] is None
    assert (first["holder"], first["health"]["verdict"]) == ("a", "CRITICAL")
    assert first["health"]["evidence"][0]["signal"] == "xid_79"
    assert second["mig"]["instances"][0]["holder"] == "b"
    assert second["holder"] is None


def test_names_are_what_can_be_given(make_gpu, make_lost, make_inventory) -> None:
    whole, mig = make_gpu(0), make_gpu(1, (2,))
    inventory = make_inventory(whole, mig, make_lost(2))
    assert list_uuids(inventory) == [whole.uuid, mig.mig.instances[0].uuid]
