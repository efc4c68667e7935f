"""The copy of what the API server has: versions decide, whatever the order of the news."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsched.adapters.kubernetes.apis import NoAnswerError
from mlsched.adapters.kubernetes.objects import Metadata, RawList
from mlsched.adapters.kubernetes.reflectors import Reflector


class Thing(msgspec.Struct):
    metadata: Metadata
    size: int = 0


class Seen:
    """A reflector without a server, and what it told."""

    def __init__(self) -> None:
        self.changes: list[tuple[int | None, int | None]] = []
        self.problems: list[str] = []
        self.reflector: Reflector[Thing] = Reflector(
            None,  # type: ignore[arg-type] - nothing is asked here
            "/things",
            Thing,
            self._handle,
            on_problem=self.problems.append,
        )

    def _handle(self, before: Thing | None, after: Thing | None) -> None:
        self.changes.append((before.size if before else None, after.size if after else None))

    async def read(self, *lines: dict[str, Any]) -> None:
        async def stream() -> Any:
            for line in lines:
                yield json.dumps(line).encode()

        await self.reflector._follow(stream())

    def list(self, version: int, *items: dict[str, Any]) -> None:
        body = json.dumps({"metadata": {"resourceVersion": str(version)}, "items": list(items)})
        self.reflector._replace(msgspec.json.decode(body, type=RawList))


def thing(version: int, size: int = 0, name: str = "a", uid: str = "u") -> dict[str, Any]:
    metadata = {"name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "size": size}


def event(kind: str, **what: Any) -> dict[str, Any]:
    return {"type": kind, "object": thing(**what)}


def body(version: int, size: int) -> bytes:
    return json.dumps(thing(version, size)).encode()


async def _story() -> Seen:
    seen = Seen()
    await seen.read(event("ADDED", version=1, size=1), event("MODIFIED", version=3, size=3))
    return seen


def run(work: Any) -> Any:
    """Drive a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


def test_changes_are_told_with_what_was_before() -> None:
    seen = run(_story())
    assert seen.changes == [(None, 1), (1, 3)]


def test_old_news_is_dropped() -> None:
    seen = run(_story())
    run(seen.read(event("MODIFIED", version=2, size=2)))
    assert seen.reflector.objects["a"].size == 3


def test_our_own_write_is_seen_at_once_and_an_older_watch_does_not_undo_it() -> None:
    seen = run(_story())
    seen.reflector.put(body(5, 5))
    run(seen.read(event("MODIFIED", version=4, size=4)))
    assert seen.reflector.objects["a"].size == 5


def test_a_list_that_began_before_our_write_does_not_take_it_for_absent() -> None:
    seen = Seen()
    seen.reflector.put(body(9, 9))
    seen.list(8)
    assert "a" in seen.reflector.objects
    seen.list(10)
    assert "a" not in seen.reflector.objects


def test_a_body_that_is_no_list_changes_nothing_and_is_asked_for_again() -> None:
    class Proxy:
        async def get(self, path: str, params: object) -> bytes:
            return b"<html>Welcome</html>"

    seen = run(_story())
    seen.reflector._api = Proxy()  # type: ignore[assignment] - answers as a proxy's page would
    with pytest.raises(NoAnswerError, match="expected a list"):
        run(seen.reflector.list_all())
    assert "a" in seen.reflector.objects


def test_what_vanished_while_nobody_watched_is_told() -> None:
    seen = run(_story())
    seen.list(7, thing(6, 6, name="b"))
    assert seen.changes[-2:] == [(None, 6), (3, None)]


def test_a_deletion_tells_the_last_state_first() -> None:
    seen = run(_story())
    run(seen.read(event("DELETED", version=4, size=4)))
    assert seen.changes[-2:] == [(3, 4), (4, None)]


def test_a_late_event_does_not_bring_back_what_was_deleted() -> None:
    seen = run(_story())
    run(seen.read(event("DELETED", version=4), event("MODIFIED", version=2)))
    assert seen.reflector.objects == {}


def test_a_new_object_of_the_same_name_is_another() -> None:
    seen = run(_story())
    run(seen.read(event("ADDED", version=9, size=9, uid="v")))
    assert seen.changes[-2:] == [(3, None), (None, 9)]
    run(seen.read(event("DELETED", version=8, uid="u")))
    assert seen.reflector.objects["a"].size == 9


def test_a_poisoned_object_spoils_itself_alone() -> None:
    seen = Seen()
    bad = thing(1, name="bad") | {"size": "text"}
    seen.list(5, thing(2, 2), bad)
    assert list(seen.reflector.objects) == ["a"]
    assert "bad" in seen.reflector.spoilt
    assert seen.problems


def test_an_object_whose_handler_errs_keeps_no_other_from_being_told() -> None:
    seen, told = Seen(), []

    def handle(before: Thing | None, after: Thing | None) -> None:
        if after is not None and after.metadata.name == "odd":
            raise KeyError("what nobody thought of")
        told.append(after.metadata.name if after is not None else None)

    seen.list(3, thing(1, name="a"), thing(2, name="odd"), thing(3, name="z"))
    seen.reflector.tell_all(handle, reversed(list(seen.reflector.objects.values())))
    assert told == ["z", "a"]
    seen.list(6, thing(4, name="a"), thing(5, name="odd"), thing(6, name="z"))
    assert told == ["z", "a", "a", "z"]
    assert seen.reflector.objects.keys() == {"a", "odd", "z"}
    assert seen.problems == ["/things: odd is left alone: KeyError('what nobody thought of')"] * 2


@given(st.permutations([1, 2, 3, 4, 5]), st.integers(0, 5))
def test_whatever_the_order_the_newest_stays(order: list[int], own: int) -> None:
    seen = Seen()
    for index, version in enumerate(order):
        if index == own:
            seen.reflector.put(body(version, version))
        else:
            run(seen.read(event("MODIFIED", version=version, size=version)))
    assert seen.reflector.objects["a"].size == 5
