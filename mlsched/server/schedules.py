"""Schedules: which ticks are due, each fired once, whoever asks and however often.

The id of a run is uuid5(schedule, tick); it is inserted in the same transaction as its job under a
unique constraint. So two ticks at once, a restart, or a tick after a crash never fire twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from mlsched.adapters.crons import due_ticks, next_tick
from mlsched.adapters.store.stores import Store
from mlsched.adapters.store.values import Schedule
from mlsched.errors import ConflictError, MlschedError, SpecError
from mlsched.server.views import JsonObject, rfc3339
from mlsched.specs.schedules import LAST_TICK_MS, ScheduleDocument, load_schedule

NAMESPACE = uuid.UUID("5b8e9f5e-4c55-5d0f-9a0e-1c5d7f2f6d11")
"""Of run ids: any fixed value will do, as long as it never changes."""

AHEAD_MS_MAX = 24 * 3_600_000
"""A tick that was dealt with and is further in the future was dealt with by a wrong clock: ticks
count from now on again. Smaller steps back are waited for, so that what was skipped stays so."""

Args = Mapping[str, Any]
SubmitRun = Callable[[JsonObject, str, tuple[str, str, int]], Awaitable[str | None]]
"""Document, key and run to the name of the job; None when an earlier call made it."""


class Schedules:
    """The schedule operations of the service."""

    def __init__(self, store: Store, submit_run: SubmitRun) -> None:
        self._store = store
        self._submit_run = submit_run

    async def apply(self, args: Args) -> JsonObject:
        """Add a schedule or replace the one of that name; ticks count from now on."""
        document = args.get("document")
        if not isinstance(document, dict):
            raise SpecError("cron apply needs a document of kind Schedule.")
        read = load_schedule(document)
        now_ms = time.time_ns() // 1_000_000
        next_tick(read.cron, read.time_zone, now_ms)
        schedule = Schedule(read.name, uuid.uuid4().hex, document, now_ms)
        stored = await self._store.put_schedule(schedule)
        return {"schedule": _view(stored, read, now_ms)}

    async def list_all(self, args: Args) -> JsonObject:
        """Every schedule with its next tick."""
        now_ms = time.time_ns() // 1_000_000
        found = await self._store.schedules()
        return {"schedules": [_view_or_error(one, now_ms) for one in found]}

    async def tick(self, args: Args) -> JsonObject:
        """Fire what is due; stateless for the caller, so plain cron may drive it.

        A schedule whose job cannot be submitted keeps no other one from firing; its tick stays due.
        """
        now_ms = _instant_ms(args.get("now"))
        fired: list[JsonObject] = []
        failed: list[JsonObject] = []
        skipped = 0
        for schedule in await self._store.schedules():
            try:
                skipped += await self._fire_due(schedule, now_ms, fired)
            except MlschedError as error:
                failed.append({"schedule": schedule.name, "error": error.to_dict()})
        return {"fired": fired, "skipped": skipped, "failed": failed}

    async def _fire_due(self, schedule: Schedule, now_ms: int, fired: list[JsonObject]) -> int:
        """Add the runs of one schedule; returns how many missed ticks were skipped."""
        if schedule.last_tick_ms - now_ms > AHEAD_MS_MAX:
            await self._store.put_back_last_tick(schedule, now_ms)
            return 0
        read = load_schedule(schedule.document)
        ticks = due_ticks(read.cron, read.time_zone, schedule.last_tick_ms, now_ms)
        if not ticks:
            return 0
        if read.suspend:
            await self._store.set_last_tick(schedule.id, ticks[-1])
            return 0
        chosen = ticks[-1:] if read.missed == "latest" else ticks
        for tick_ms in chosen:
            run = await self._fire(schedule, read, tick_ms)
            fired.extend([run] if run else [])
        await self._store.set_last_tick(schedule.id, ticks[-1])
        return len(ticks) - len(chosen)

    async def _fire(
        self, schedule: Schedule, read: ScheduleDocument, tick_ms: int
    ) -> JsonObject | None:
        run_id = uuid.uuid5(NAMESPACE, f"{schedule.id}/{tick_ms}").hex
        if await self._store.has_run(run_id):
            return None
        try:
            job = await self._submit_run(
                read.job_document(tick_ms), f"run-{run_id}", (run_id, schedule.id, tick_ms)
            )
        except ConflictError:
            return None
        if job is None:
            return None
        return {"schedule": schedule.name, "tick": rfc3339(tick_ms), "run_id": run_id, "job": job}


def _view_or_error(schedule: Schedule, now_ms: int) -> JsonObject:
    """One that this version cannot read is shown with the reason, and hides no other."""
    try:
        return _view(schedule, load_schedule(schedule.document), now_ms)
    except SpecError as error:
        nothing = dict.fromkeys(("cron", "time_zone", "suspend", "missed", "next_tick"))
        return nothing | {
            "name": schedule.name,
            "id": schedule.id,
            "last_tick": rfc3339(schedule.last_tick_ms),
            "error": error.to_dict(),
        }


def _view(schedule: Schedule, read: ScheduleDocument, now_ms: int) -> JsonObject:
    return {
        "name": schedule.name,
        "id": schedule.id,
        "cron": read.cron,
        "time_zone": read.time_zone,
        "suspend": read.suspend,
        "missed": read.missed,
        "last_tick": rfc3339(schedule.last_tick_ms),
        "next_tick": None
        if read.suspend
        else rfc3339(next_tick(read.cron, read.time_zone, max(now_ms, schedule.last_tick_ms))),
        "error": None,
    }


def _instant_ms(text: Any) -> int:
    if text is None:
        return time.time_ns() // 1_000_000
    try:
        found = datetime.fromisoformat(str(text))
        aware = found if found.tzinfo else found.replace(tzinfo=UTC)
        instant_ms = int(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        instant_ms = LAST_TICK_MS + 1
    if instant_ms > LAST_TICK_MS:
        raise SpecError(
            f"now: expected a time such as 2026-11-26T13:00:00Z, found {str(text)[:40]!r}."
        )
    return instant_ms
