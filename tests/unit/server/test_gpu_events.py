"""Events of the driver, kept over restarts of the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsched.model.inventory import GpuEvent
from mlsched.server.gpu_events import EventRecord

XID = GpuEvent(1, "GPU-1", "xid", 79)


def test_the_next_service_knows_them(tmp_path: Path) -> None:
    EventRecord(tmp_path / "events.json").add(XID)
    assert EventRecord(tmp_path / "events.json").events == (XID,)


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b'{"boot_id": "\xff"}', b"[]"], ids=range(4))
def test_a_damaged_record_is_begun_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.json").write_bytes(content)
    record = EventRecord(tmp_path / "events.json")
    assert record.events == ()
    record.add(XID)
    assert EventRecord(tmp_path / "events.json").events == (XID,)
