"""The operations of the service: what clients can ask, each a few lines over the parts below.

Operations check their input, ask the records or the controller, and answer with plain objects.
Nothing here decides where or when a job runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from msgspec.structs import replace

from mlsched.adapters.store import Store
from mlsched.adapters.store.values import Accepted, Submission
from mlsched.config import Paths, Settings
from mlsched.core.explain import explain, preview
from mlsched.errors import SpecError
from mlsched.model.events import CancelRequested, Event, JobSubmitted
from mlsched.model.jobs import Job, JobState
from mlsched.model.specs import ArraySpec
from mlsched.runtime.driver import Driver
from mlsched.server.arguments import COUNT, OBJECT, SECONDS, TEXT, TEXTS, Args, read_argument
from mlsched.server.details import REPORT_S, attempt_dir, detail_view, reported
from mlsched.server.inventories import Inventories
from mlsched.server.records import Records
from mlsched.server.schedules import Schedules
from mlsched.server.submissions import Request, build, check_room, refuse_what_never_fits
from mlsched.server.views import (
    JsonObject,
    device_view,
    placement_view,
    reason_view,
    representative,
    rfc3339,
    usage_view,
)
from mlsched.specs.documents import to_document
from mlsched.specs.edits import edit_document
from mlsched.version import __version__

REPORTED_MAX = 10_000
"""Ended jobs that a report looks at."""


class Service:
    """Everything that clients can ask for, by operation name in `operations` and `streams`."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        store: Store,
        driver: Driver,
        inventories: Inventories,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._store = store
        self._driver = driver
        self._inventories = inventories
        self.records = Records(driver, store)
        self._schedules = Schedules(store, self.submit_run)
        self._started_at_ms = driver.now().wall_ms
        self.stopping = asyncio.Event()
        self.operations = {
            "ping": self.ping,
            "submit": self.submit,
            "preview": self.preview,
            "list": self.list_jobs,
            "show": self.show,
            "why": self.why,
            "cancel": self.cancel,
            "retry": self.retry,
            "gpus": self.gpus,
            "node": self.node,
            "report": self.report,
            "schedule_apply": self._schedules.apply,
            "schedule_list": self._schedules.list_all,
            "schedule_tick": self._schedules.tick,
            "stop": self.stop,
        }
        self.streams = {"watch": self.watch}

    async def ping(self, args: Args) -> JsonObject:
        """Who answers, and where its things are."""
        return {
            "pid": os.getpid(),
            "socket": str(self._paths.socket),
            "database": str(self._paths.database),
            "state_dir": str(self._paths.state_dir),
            "version": __version__,
            "started_at": rfc3339(self._started_at_ms),
            "jobs_active": len(self._driver.controller.jobs),
        }

    async def submit(self, args: Args) -> JsonObject:
        """Accept a job or an array; answers once it is durable."""
        return await self._accepted_view(await self._submit(Request(args)))

    async def _submit(self, request: Request, run: tuple[str, str, int] | None = None) -> Accepted:
        """What a key made before is found first: by now it could be refused."""
        self._break_off_if_ending()
        known = await self._store.by_key(request.key)
        if known:
            return Accepted(tuple(known), created=False)
        check_room(self._paths.state_dir, self._settings.service.free_bytes_min)
        refuse_what_never_fits(request.spec, self._driver.controller.ledger)
        submission = await build(request, self.records.find, self._driver.now().wall_ms)
        return await self._accept(replace(submission, run=run))

    async def submit_run(
        self, document: JsonObject, key: str, run: tuple[str, str, int]
    ) -> str | None:
        """Submit a schedule's job for one tick; its name, or None when that was done before."""
        accepted = await self._submit(Request({"document": document, "idempotency_key": key}), run)
        if not accepted.created:
            return None
        view = await self._accepted_view(accepted)
        return str(view["jobs"][0]["name"])

    async def _accept(self, submission: Submission) -> Accepted:
        accepted = await self._store.accept(submission)
        if accepted.created:
            first = accepted.jobs[0]
            ended = await self.records.known_ends([d.job_id for d in first.after])
            self._post(*(JobSubmitted(job, ended) for job in accepted.jobs))
        return accepted

    def _post(self, *events: Event) -> None:
        """Hand over what was asked for, unless nobody here would act on it any more."""
        self._break_off_if_ending()
        self._driver.post(*events)

    def _break_off_if_ending(self) -> None:
        """End the connection without an answer: the client asks again, and starts the next one.

        Raises:
            ConnectionAbortedError: this service is about to end.
        """
        if self.stopping.is_set() or self._driver.broken.is_set():
            raise ConnectionAbortedError("this service ends")

    async def _accepted_view(self, accepted: Accepted) -> JsonObject:
        jobs = [self.records.newest(job) for job in accepted.jobs]
        first = jobs[0]
        text = first.array.name if first.array else first.name
        return {
            "jobs": [await self.records.view_found(text, jobs)],
            "created": accepted.created,
        }

    async def preview(self, args: Args) -> JsonObject:
        """What would become of a job; nothing is stored."""
        request = Request(args)
        spec = request.spec
        submission = await build(request, self.records.find, self._driver.now().wall_ms)
        controller = self._driver.controller
        snapshot = controller.snapshot(self._driver.now())
        job = replace(submission.jobs[0], seq=1 << 62, name=submission.name or submission.base)
        ended = await self.records.known_ends([d.job_id for d in job.after])
        snapshot = replace(snapshot, states={**snapshot.states, **ended})
        found = preview(job, snapshot, controller.ledger, controller.policy)
        return {
            "document": to_document(spec, request.document.metadata),
            "starts_now": found.reason is None,
            "reason": reason_view(found.reason),
            "placement": [placement_view(group) for group in found.placements],
        }

    async def list_jobs(self, args: Args) -> JsonObject:
        """Jobs as rows; arrays are one row."""
        states = _states(args, "state")
        ended = bool(args.get("all")) or any(state.is_ended for state in states)
        limit = read_argument(args, "limit", COUNT)
        if limit is not None and limit < 1:
            raise SpecError("limit: expected a number above 0.")
        queue = str(args.get("queue") or "")
        rows, total = await self.records.rows(states, queue, ended=ended, limit=limit)
        return {"jobs": rows, "total": total}

    async def show(self, args: Args) -> JsonObject:
        """Everything about one job or array."""
        text = str(args.get("job", ""))
        found = await self.records.get(text)
        view = await self.records.view_found(text, found)
        now_ms = self._driver.now().wall_ms
        directory = attempt_dir(self._paths, found[0])
        return view | detail_view(found, directory, now_ms, whole=view["array"] is not None)

    async def why(self, args: Args) -> JsonObject:
        """The one reason, its evidence, and what would start the job now."""
        text = str(args.get("job", ""))
        found = await self.records.get(text)
        job = next((j for j in found if not j.state.is_ended), representative(found))
        controller = self._driver.controller
        snapshot = controller.snapshot(self._driver.now())
        told = explain(job, snapshot, controller.ledger, controller.policy)
        return {
            "job": await self.records.view_found(text, found),
            "reason": reason_view(told.reason),
            "details": list(told.details),
            "unblocks": list(told.unblocks),
            "command": _next_command(job),
        }

    async def cancel(self, args: Args) -> JsonObject:
        """Ask jobs to end; answers once that is durable. Those that have ended stay as they are.

        Raises:
            StoreFullError: it is not durable in time; it is done once there is room.
        """
        texts = read_argument(args, "jobs", TEXTS, [])
        grace_s = read_argument(args, "grace_s", COUNT)
        if grace_s is not None and not 0 <= grace_s <= 86_400:
            raise SpecError("grace: expected seconds between 0 and 86400.")
        states = _states(args, "states")
        found = await self.records.get_all(texts)
        found = [job for job in found if not states or job.state in states]
        await self.records.wait_until_decided(found)
        self._post(*(CancelRequested(job.id, grace_s) for job in found))
        await self.records.wait_until_saved([job.id for job in found])
        views = {}
        for text in texts:
            jobs = await self.records.get(text)
            views[text] = await self.records.view_found(text, jobs)
        return {"jobs": list(views.values())}

    async def retry(self, args: Args) -> JsonObject:
        """Submit the spec of a job again, perhaps with changes, as a new job."""
        text = str(args.get("job", ""))
        job = (await self.records.get(text))[0]
        spec, base = job.spec, job.name
        if job.array is not None:
            base = job.array.name
            spec = spec if text != job.name else replace(spec, array=ArraySpec((job.array.index,)))
        document = to_document(spec)
        document = edit_document(document, read_argument(args, "set", OBJECT, {}))
        document.setdefault("metadata", {})["name"] = base
        return await self.submit(
            {
                "document": document,
                "user": job.user,
                "environment": await self._store.environment(job.environment_id),
                "workdir": job.spec.workdir,
                "idempotency_key": args.get("idempotency_key"),
            }
        )

    async def watch(self, args: Args) -> AsyncIterator[JsonObject]:
        """Each job at once and at each change, until all have reached ``until``."""
        texts, until = read_argument(args, "jobs", TEXTS), read_argument(args, "until", TEXT)
        timeout_s = read_argument(args, "timeout_s", SECONDS)
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        with self._driver.listen() as queue:
            found = await self._watched(texts)
            open_ids = set()
            for job in found:
                yield {"event": self.records.view(job)}
                if not _has_reached(job, until):
                    open_ids.add(job.id)
            wanted = None if texts is None else {job.id for job in found}
            while open_ids or until is None:
                left_s = None if deadline is None else deadline - loop.time()
                try:
                    job = await asyncio.wait_for(queue.get(), left_s)
                except TimeoutError:
                    yield {"ok": {"timed_out": True}}
                    return
                if wanted is None or job.id in wanted:
                    yield {"event": self.records.view(job)}
                    if _has_reached(job, until):
                        open_ids.discard(job.id)
        yield {"ok": {"timed_out": False}}

    async def _watched(self, texts: list[str] | None) -> list[Job]:
        if texts is None:
            return list(self._driver.controller.jobs.values())
        return await self.records.get_all(texts)

    async def gpus(self, args: Args) -> JsonObject:
        """A fresh reading of every GPU, and who holds it."""
        inventory = await self._inventories.read()
        node = await self.node(args)
        holders = {d["uuid"]: d["holder"] for d in node["devices"] if d["holder"]}
        return {
            "node": node,
            "inventory": inventory,
            "holders": holders,
            "note": inventory.note or None,
        }

    async def node(self, args: Args) -> JsonObject:
        """This machine as placement sees it."""
        controller = self._driver.controller
        ledger = controller.ledger
        node = next(iter(ledger.nodes.values()))
        devices = []
        for device in node.devices:
            holder = controller.jobs.get(ledger.holder_of(device.uuid) or "")
            devices.append(device_view(device, holder.name if holder else None))
        return {
            "name": node.name,
            "layer": node.layer,
            "milli_cpus": node.milli_cpus,
            "memory_bytes": node.memory_bytes,
            "free_milli_cpus": ledger.free_milli_cpus(node.name),
            "free_memory_bytes": ledger.free_memory_bytes(node.name),
            "devices": devices,
            "note": node.gpu_note or None,
        }

    async def report(self, args: Args) -> JsonObject:
        """What jobs waited, ran and used; one job, or all since some seconds ago."""
        now_ms = self._driver.now().wall_ms
        if args.get("job"):
            jobs = await self.records.get(str(args["job"]))
        else:
            since_s = read_argument(args, "since_s", SECONDS, REPORT_S)
            since_ms = now_ms - int(1000 * since_s)
            jobs = await self.records.current(REPORTED_MAX)
            jobs = [job for job in jobs if (job.ended_at_ms or now_ms) >= since_ms]
        rows = [
            self.records.view(job)
            | usage_view(job, now_ms)
            | reported(job, attempt_dir(self._paths, job))
            for job in jobs
        ]
        keys = ("wait_s", "run_s", "cpu_s", "gpu_s")
        totals = {key: round(sum(row[key] for row in rows), 3) for key in keys}
        return {"jobs": rows, "totals": totals | {"jobs": len(rows)}}

    async def stop(self, args: Args) -> JsonObject:
        """End the service; jobs go on."""
        self.stopping.set()
        return {}


def _states(args: Args, name: str) -> set[JobState]:
    texts = read_argument(args, name, TEXTS, [])
    known = {str(state): state for state in JobState}
    for text in texts:
        if text not in known:
            raise SpecError(f"state: {text[:40]!r} is none of {', '.join(known)}.")
    return {known[text] for text in texts}


def _has_reached(job: Job, until: str | None) -> bool:
    return job.state.is_ended or (until == "running" and job.state is JobState.RUNNING)


def _next_command(job: Job) -> str | None:
    if job.state is JobState.FAILED:
        return f"mlsched logs {job.name}"
    if job.state in (JobState.RUNNING, JobState.STARTING):
        return f"mlsched logs -f {job.name}"
    if job.state is JobState.PENDING:
        return f"mlsched show {job.name}"
    return None
