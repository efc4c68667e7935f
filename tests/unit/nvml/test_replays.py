"""Recordings come from other people: damaged or hostile ones are refused, never obeyed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pynvml
import pytest

from mlsched.adapters.nvml.recordings import (
    Answer,
    Output,
    Player,
    Recorder,
    Recording,
    UnrecordedError,
    installed,
)
from mlsched.adapters.nvml.replays import play, replay
from mlsched.adapters.nvml.scrubbing import scrub
from mlsched.errors import SpecError
from mlsched.model.inventory import ReadingStatus


def recording_of(**calls: dict[str, list[Answer]]) -> Recording:
    return Recording(taken_at_ms=1000, calls=calls)


def test_answers_come_in_their_order_and_the_last_one_repeats() -> None:
    answers = [Answer(code, outputs=[Output(4, f"{code:02x}")]) for code in (7, 8)]
    player = Player(recording_of(f={"4:": answers}))
    seen = []
    for _ in range(3):
        value = ctypes.c_uint(0)
        seen.append((player.f(ctypes.byref(value)), value.value))
    assert seen == [(7, 7), (8, 8), (8, 8)]


def test_an_output_that_does_not_fit_is_refused_before_anything_is_copied() -> None:
    player = Player(recording_of(f={"4:": [Answer(0, outputs=[Output(4, "01" * 5)])]}))
    pair = (ctypes.c_uint * 2)()
    first = ctypes.c_uint.from_buffer(pair)
    with pytest.raises(UnrecordedError, match="damaged"):
        player.f(ctypes.byref(first))
    assert list(pair) == [0, 0]


def test_a_count_that_would_fill_the_memory_is_refused() -> None:
    name = "nvmlDeviceGetComputeRunningProcesses_v3"
    player = Player(recording_of(**{name: {"4:": [Answer(7, outputs=[Output(4, "ffffff7f")])]}}))
    with pytest.raises(UnrecordedError, match="count"):
        getattr(player, name)(ctypes.byref(ctypes.c_uint(0)))


def test_a_function_that_was_not_recorded_is_missing_and_others_say_what_is_missing() -> None:
    player = Player(recording_of(f={"1": [Answer(0)]}))
    with pytest.raises(AttributeError):
        _ = player.g
    with pytest.raises(UnrecordedError, match=r"not in this recording: f\(2\)"):
        player.f(2)


def test_the_recorder_passes_the_type_of_texts_on() -> None:
    class Library:
        def __init__(self) -> None:
            self.function = ctypes.CDLL(None).strerror

        @property
        def nvmlErrorString(self):
            return self.function

    recording = Recording()
    with installed(pynvml, Recorder(Library(), recording)):
        text = pynvml.nvmlErrorString(2)
    assert text == "No such file or directory"
    with installed(pynvml, Player(recording)):
        assert pynvml.nvmlErrorString(2) == text
    assert pynvml.nvmlLib is None, "the binding is as it was"


def test_an_empty_recording_is_a_driver_without_functions() -> None:
    inventory = play(Recording(taken_at_ms=1000))
    assert inventory.gpus == ()
    assert inventory.driver.status is ReadingStatus.MISSING_SYMBOL
    assert inventory.taken_at_ms == 1000


def test_a_hostile_recording_ends_in_readings(tmp_path: Path) -> None:
    calls = {
        "nvmlInitWithFlags": {"0": [Answer(0)]},
        "nvmlDeviceGetCount_v2": {"4:": [Answer(0, outputs=[Output(4, "ff")])]},
        "nvmlDeviceGetHandleByIndex_v2": {
            "0 out": [Answer(0, outputs=[None, Output(handle="handle-1")])],
            "1 out": [Answer(0, outputs=[None, Output(8, "zz")])],
        },
    }
    inventory = play(Recording(taken_at_ms=1000, calls=calls))
    assert len(inventory.gpus) == 255
    assert inventory.gpus[1].identity.uuid.status is ReadingStatus.ERROR
    assert inventory.gpus[2].identity.uuid.detail.startswith("UnrecordedError")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected a recording"),
        (b"\x00\xff", "expected a recording"),
        (b"[]", "expected a recording"),
        (b'{"format": "other/9"}', "expected a recording of format"),
        (b'{"calls": {"f": 3}}', "expected a recording"),
        (b"<html/>", "nvidia-smi"),
    ],
)
def test_files_that_are_neither_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=words):
        replay(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        replay(tmp_path / "nothing")
    with pytest.raises(SpecError, match="cannot read"):
        replay(tmp_path)


def test_scrubbing_is_consistent_and_keeps_sizes() -> None:
    uuid = b"GPU-1a2b3c4d-1111-2222-3333-444455556666"
    bus = b"00000000:B1:00.0"
    recording = recording_of(
        nvmlDeviceGetUUID={"h": [Answer(0, outputs=[None, Output(96, uuid.hex())])]},
        nvmlDeviceGetHandleByUUID={"u": [Answer(0, outputs=[Output(96, uuid.hex())])]},
        nvmlDeviceGetSerial={"h": [Answer(0, outputs=[None, Output(30, b"1652".hex())])]},
        other={"h": [Answer(0, outputs=[Output(32, bus.hex())])]},
    )
    recording.files = {"/sys/bus/pci/devices/0000:b1:00.0/numa_node": "1\n", "/gone": None}
    scrub(recording)

    def output(name: str, position: int) -> bytes:
        ((answers,),) = (recording.calls[name].values(),)
        made = answers[0].outputs[position]
        assert made is not None
        return bytes.fromhex(made.data_hex)

    stand_in = output("nvmlDeviceGetUUID", 1)
    assert stand_in == b"GPU-00000001-0000-0000-0000-000000000000"
    assert output("nvmlDeviceGetHandleByUUID", 0) == stand_in
    assert output("nvmlDeviceGetSerial", 1) == b"0001"
    assert output("other", 0) == b"00000000:01:00.0"
    assert recording.files == {
        "/sys/bus/pci/devices/0000:01:00.0/numa_node": "1\n",
        "/gone": None,
    }
