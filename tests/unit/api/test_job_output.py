"""Lines of output are whole, whoever writes between their parts."""

from __future__ import annotations

import pytest

from mlsched.api import outputs
from mlsched.api.following import Output
from mlsched.api.logs import Record
from mlsched.api.outputs import JobOutput


def part(text: bytes, *, ends: bool) -> Record:
    return Record(0, "2026-11-26T13:00:00.000000000Z", "stdout", ends, text)


class FakeFollower:
    """Two elements of an array that write at once."""

    def __init__(self, *_: object, **__: object) -> None:
        self._items = [
            Output({"id": "a"}, part(b"load 1 ", ends=False)),
            None,
            Output({"id": "b"}, part(b"load 2 ", ends=False)),
            {"id": "a"},
            Output({"id": "a"}, part(b"done 1", ends=True)),
            Output({"id": "b"}, part(b"done 2", ends=False)),
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def __iter__(self):
        return iter(self._items)


def test_parts_of_several_jobs_are_never_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "Follower", FakeFollower)
    found = JobOutput(lambda: None, "array", follow=True, rank=None, tail=None)
    assert list(found) == ["load 1 done 1", "load 2 done 2"]
