"""A recording shows elsewhere what was read on a machine, without naming that machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlsched.adapters.nvml.replays import record, replay
from mlsched.core.inventory import placeable_devices
from mlsched.errors import PermanentError
from mlsched.model.inventory import Inventory, ReadingStatus

pytestmark = pytest.mark.needs_gcc


@pytest.fixture
def recorded(driver, fake, tmp_path) -> tuple[Inventory, Path]:
    """A machine with a lost GPU, MIG with a gap, odd names and a process; read and recorded."""
    driver.say(
        fake.machine(4),
        fake.gpu_line(4, mig="1/1", chassis="1820000000001", fabric_uuid="ab" * 16),
        fake.gpu_line(5, name=r"\xffOdd"),
        fake.mig_line(4, 0),
        fake.mig_line(4, 3),
        "proc 0 4242 1048576 4294967295 4294967295",
        "proc 0 4243 2097152 4294967295 4294967295",
        "fail * 2 15",
        "fail nvmlDeviceGetPowerUsage 1 999",
    )
    path = tmp_path / "recording.json"
    path.write_bytes(record())
    return driver.read(), path


def facts(inventory: Inventory) -> Any:
    """Everything but times, and with stand-ins for what a recording replaces."""
    plain = msgspec.to_builtins(inventory)
    for key in ("source", "taken_at_ms", "binding", "calls"):
        del plain[key]
    uuids = [gpu.uuid for gpu in inventory.gpus]
    uuids += [one.uuid for gpu in inventory.gpus for one in gpu.mig.instances]
    text = msgspec.json.encode(plain).decode()
    for number, uuid in enumerate(uuids):
        text = text.replace(f'"{uuid}"', f'"uuid {number}"')
    text = re.sub(r'"[0-9A-F]{8}:[0-9A-F]{2}:00\.0"', '"bus"', text)
    text = re.sub(r'"at_ms":\d+,"took_us":\d+', '"when":0', text)
    text = re.sub(r'"\d{13}"', '"serial"', text)
    text = re.sub(r'"cluster_uuid":\{"value":"[^"]+"', '"cluster_uuid":{"value":"id"', text)
    return msgspec.json.decode(text)


def test_a_replay_gives_what_was_read(recorded) -> None:
    inventory, path = recorded
    replayed = replay(path)
    assert replayed.source == "recording"
    assert facts(replayed) == facts(inventory)
    assert replayed.gpus[2].identity.uuid.status is ReadingStatus.LOST
    assert [one.slot for one in replayed.gpus[4].mig.instances] == [0, 3]
    assert replayed.gpus[0].load.processes.value is not None
    assert [one.pid for one in replayed.gpus[0].load.processes.value] == [4242, 4243]


def test_a_replay_does_not_depend_on_what_the_process_read_before(recorded) -> None:
    _, path = recorded
    first = facts(replay(path))
    assert facts(replay(path)) == first


def test_devices_keep_their_order_under_their_new_names(recorded) -> None:
    inventory, path = recorded
    replayed = replay(path)
    before = placeable_devices(inventory, inventory.taken_at_ms)
    after = placeable_devices(replayed, replayed.taken_at_ms)
    assert [(one.model, one.profile, one.healthy) for one in after] == [
        (one.model, one.profile, one.healthy) for one in before
    ]


def test_a_recording_does_not_name_the_machine(recorded, fake) -> None:
    inventory, path = recorded
    text = path.read_text()
    telling = [gpu.identity.serial.value for gpu in inventory.gpus]
    telling += [gpu.uuid for gpu in inventory.gpus if gpu.is_identified]
    telling += [gpu.identity.pci_bus_id.value for gpu in inventory.gpus]
    telling += [gpu.identity.chassis_serial.value for gpu in inventory.gpus]
    telling += [one.uuid for one in inventory.gpus[4].mig.instances]
    telling += [str(Path(__file__).parents[3]), "abab" * 8]
    for one in filter(None, telling):
        assert one not in text, one
        assert one.encode().hex() not in text, one
    numbers = (0).to_bytes(4, "little") + (0x2B).to_bytes(4, "little") + bytes(4)
    assert numbers.hex() not in text, "the bus id as numbers"


def test_the_same_thing_has_the_same_name_everywhere(recorded) -> None:
    _, path = recorded
    replayed = replay(path)
    peers = {peer.uuid for gpu in replayed.gpus for peer in gpu.links.peers}
    assert peers == {gpu.uuid for gpu in replayed.gpus if gpu.is_identified}


def test_without_a_driver_there_is_nothing_to_record(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(PermanentError, match="nothing to record"):
        record()


def test_a_call_that_hung_while_recording_is_transient_in_the_replay(
    driver, fake, tmp_path
) -> None:
    driver.say(fake.machine(1), "sleep nvmlDeviceGetSerial 0 60000")
    path = tmp_path / "recording.json"
    path.write_bytes(record(deadline_s=12.0))
    serial = replay(path).gpus[0].identity.serial
    assert (serial.value, serial.status) == (None, ReadingStatus.TRANSIENT)
