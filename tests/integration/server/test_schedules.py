"""Schedules on the real store: each tick fires once, whoever asks and however often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlsched.adapters.store import Store
from mlsched.adapters.store.values import Schedule, Submission
from mlsched.errors import NeverFitsError, SpecError
from mlsched.server.schedules import Schedules
from mlsched.testing.builders import job

DAY_MS = 86_400_000


def document(name: str = "nightly", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "Schedule",
        "metadata": {"name": name},
        "spec": {"cron": "@daily", "job": {"command": ["true"]}, **spec},
    }


def with_schedules(
    path: Path, scenario: Callable[[Schedules, Store, list[dict[str, Any]]], Awaitable[None]]
) -> None:
    async def run() -> None:
        store = Store(path / "state.db")
        submitted: list[dict[str, Any]] = []

        async def submit(found: dict[str, Any], key: str, run: tuple[str, str, int]) -> str | None:
            made = replace(job(run[0], 0), name="", idempotency_key=key)
            name = found["metadata"]["name"]
            accepted = await store.accept(Submission((made,), name, name, {}, key, run))
            if not accepted.created:
                return None
            submitted.append(found)
            return accepted.jobs[0].name

        try:
            await scenario(Schedules(store, submit), store, submitted)
        finally:
            await store.close()

    asyncio.run(run())


def later(days: float) -> str:
    import time
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time.time() + days * 86_400, UTC).isoformat()


def test_two_ticks_at_once_fire_once(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document()})
        now = later(1)
        answers = await asyncio.gather(*(schedules.tick({"now": now}) for _ in range(8)))
        assert len(submitted) == 1
        assert len([run["run_id"] for answer in answers for run in answer["fired"]]) == 1
        assert (await schedules.tick({"now": now}))["fired"] == []

    with_schedules(tmp_path, scenario)


def test_nothing_is_due_before_the_first_tick(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document()})
        assert (await schedules.tick({}))["fired"] == []

    with_schedules(tmp_path, scenario)


@pytest.mark.parametrize(("missed", "runs", "skipped"), [("latest", 1, 4), ("all", 5, 0)])
def test_after_downtime_the_policy_decides(
    tmp_path: Path, missed: str, runs: int, skipped: int
) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document(missed=missed)})
        answer = await schedules.tick({"now": later(5)})
        assert (len(answer["fired"]), answer["skipped"]) == (runs, skipped)
        labels = submitted[0]["spec"]["labels"]
        assert labels == {"mlsched.io/schedule": "nightly"}

    with_schedules(tmp_path, scenario)


def test_a_suspended_schedule_fires_nothing(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document(suspend=True)})
        assert (await schedules.tick({"now": later(3)}))["fired"] == []
        listed = (await schedules.list_all({}))["schedules"]
        assert [(one["name"], one["next_tick"]) for one in listed] == [("nightly", None)]

    with_schedules(tmp_path, scenario)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {**document(), "kind": "MLJob"},
        {**document(), "metadata": {"name": "../x"}},
        document(cron="every day"),
        document(job={"command": []}),
        document(job={"comand": ["true"]}),
        document(extra=1),
        document(job={"command": ["true"], "labels": None}),
        document(job={"command": ["true"], "env": ["A=1"]}),
        document(job={"command": ["true"], "labels": "team"}),
    ],
    ids=[
        "empty",
        "kind",
        "name",
        "cron",
        "no command",
        "misspelt",
        "unknown",
        "no labels",
        "list of variables",
        "label of text",
    ],
)
def test_a_schedule_that_could_never_run_is_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        with pytest.raises(SpecError):
            await schedules.apply({"document": broken})
        assert await store.schedules() == []

    with_schedules(tmp_path, scenario)


def test_a_schedule_that_is_refused_keeps_no_other_from_firing(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        real = schedules._submit_run

        async def submit(found: dict[str, Any], key: str, run: tuple[str, str, int]) -> str | None:
            if found["metadata"]["name"].startswith("b"):
                raise NeverFitsError("asks for 1 GPU", "Ask for less.")
            return await real(found, key, run)

        schedules._submit_run = submit
        for name in ("a", "b", "c"):
            await schedules.apply({"document": document(name)})
        for _ in range(2):
            answer = await schedules.tick({"now": later(1)})
            assert [one["schedule"] for one in answer["failed"]] == ["b"]
            assert answer["failed"][0]["error"]["code"] == "NeverFits"
        assert [found["metadata"]["name"][0] for found in submitted] == ["a", "c"]

    with_schedules(tmp_path, scenario)


@pytest.mark.parametrize(("length", "is_accepted"), [(52, True), (53, False)])
def test_a_name_that_no_run_could_have_is_refused(
    tmp_path: Path, length: int, is_accepted: bool
) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        if is_accepted:
            await schedules.apply({"document": document("n" * length)})
            assert len((await schedules.tick({"now": later(1)}))["fired"]) == 1
        else:
            with pytest.raises(SpecError):
                await schedules.apply({"document": document("n" * length)})

    with_schedules(tmp_path, scenario)


def test_ticks_of_a_time_when_it_was_suspended_or_another_one_never_fire(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document(missed="all", suspend=True)})
        await schedules.tick({"now": later(3)})
        await schedules.apply({"document": document(missed="all")})
        assert (await schedules.tick({"now": later(3)}))["fired"] == []
        assert len((await schedules.tick({"now": later(5)}))["fired"]) == 2

    with_schedules(tmp_path, scenario)


def test_labels_of_a_schedule_are_those_of_its_jobs(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        labelled = {**document(), "metadata": {"name": "nightly", "labels": {"team": "nlp"}}}
        await schedules.apply({"document": labelled})
        await schedules.tick({"now": later(1)})
        assert submitted[0]["spec"]["labels"]["team"] == "nlp"

    with_schedules(tmp_path, scenario)


@pytest.mark.parametrize("now", ["noon", 5, "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_which_nothing_can_be_due_is_refused(tmp_path: Path, now: Any) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document()})
        with pytest.raises(SpecError, match="now: expected a time"):
            await schedules.tick({"now": now})

    with_schedules(tmp_path, scenario)


def test_a_schedule_that_cannot_be_read_any_more_hides_no_other(tmp_path: Path) -> None:
    """Written by another version, or in a time zone that is no longer known."""

    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document("a")})
        await store.put_schedule(Schedule("b", "id-b", document("b", timeZone="Mars/One"), 0))
        await store.put_schedule(Schedule("c", "id-c", {"kind": "Schedule"}, 0))
        listed = (await schedules.list_all({}))["schedules"]
        assert [(one["name"], one["next_tick"] is None) for one in listed] == [
            ("a", False), ("b", True), ("c", True),
        ]  # fmt: skip
        assert [one["error"] is None for one in listed] == [True, False, False]
        assert {frozenset(one) for one in listed} == {frozenset(listed[0])}
        answer = await schedules.tick({"now": later(1)})
        assert [one["schedule"] for one in answer["failed"]] == ["b", "c"]
        assert len(answer["fired"]) == 1

    with_schedules(tmp_path, scenario)


def test_a_clock_that_was_years_ahead_once_does_not_end_a_schedule(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document()})
        assert len((await schedules.tick({"now": later(1_500)}))["fired"]) == 1
        assert (await schedules.tick({}))["fired"] == []
        assert len((await schedules.tick({"now": later(1)}))["fired"]) == 1
        assert len((await schedules.tick({"now": later(2)}))["fired"]) == 1

    with_schedules(tmp_path, scenario)


def test_a_clock_that_is_put_back_by_an_hour_fires_no_tick_twice(tmp_path: Path) -> None:
    async def scenario(schedules: Schedules, store: Store, submitted: list[Any]) -> None:
        await schedules.apply({"document": document(cron="*/10 * * * *")})
        assert len((await schedules.tick({"now": later(1)}))["fired"]) == 1
        for hours in (23, 23.5, 24):
            assert (await schedules.tick({"now": later(hours / 24)}))["fired"] == []

    with_schedules(tmp_path, scenario)
