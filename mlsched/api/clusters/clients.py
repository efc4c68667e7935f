"""The client of one kubeconfig context: the operations of the service that a cluster answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from mlsched.adapters.kubernetes.configs import Access
from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.adapters.kubernetes.objects import job_path
from mlsched.api.clusters.cancellations import cancel_elements, cancel_whole
from mlsched.api.clusters.checks import read_server
from mlsched.api.clusters.explanations import explain_job, next_command, preview_job, reasons_of
from mlsched.api.clusters.leases import RecentView, read_controller
from mlsched.api.clusters.names import Reference, base_of, parse_reference
from mlsched.api.clusters.nodes import cluster_view, gpu_rows
from mlsched.api.clusters.outputs import PodOutputs
from mlsched.api.clusters.pictures import Lists, Picture, read_lists
from mlsched.api.clusters.problems import translated
from mlsched.api.clusters.records import (
    Record,
    decode_list,
    decode_record,
    not_found,
    rows,
    view_found,
)
from mlsched.api.clusters.submissions import Submission, first_job
from mlsched.api.clusters.troubles import starting_troubles
from mlsched.api.clusters.watches import watch_jobs
from mlsched.api.interfaces import AnyStream, Args, JsonObject
from mlsched.config import Paths
from mlsched.errors import ConfigError, ConflictError, NotFoundError, SpecError
from mlsched.model.jobs import Job, JobState
from mlsched.model.specs import ArraySpec
from mlsched.server.details import REPORT_S, detail_view, reported
from mlsched.server.views import placement_view, reason_view, representative, usage_view
from mlsched.specs.documents import to_document
from mlsched.specs.edits import edit_document
from mlsched.specs.names import derive_base
from mlsched.specs.records import KEY_ANNOTATION
from mlsched.specs.sources import FILE_ANNOTATION

TRIES_MAX = 4
"""Of a create whose answer was lost, or whose name by chance was taken."""


class Found(msgspec.Struct, frozen=True):
    """What a text stands for."""

    record: Record
    jobs: tuple[Job, ...]
    whole: bool
    """Whether an array as a whole is meant, or a single job."""


class ClusterClient:
    """Asks the API server of a context. Safe to share between threads.

    Args:
        paths: Of this machine: caches and settings.
        access: Which API server, as whom.
        namespace: In place of the context's.
        image: For jobs that name none.
        on_problem: Takes one line on output that cannot be shown.
    """

    def __init__(
        self,
        paths: Paths,
        access: Access,
        namespace: str = "",
        image: str = "",
        on_problem: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.paths = paths
        self.context = access.context
        self.namespace = namespace or access.namespace
        self.connections = Connections(access)
        self._image = image
        self._recent = RecentView(lambda: read_controller(self.connections))
        self._on_problem = on_problem
        self._operations: dict[str, Callable[[Args], Any]] = {
            "ping": self._ping,
            "submit": self._submit,
            "preview": self._preview,
            "list": self._list,
            "show": self._show,
            "why": self._why,
            "cancel": self._cancel,
            "retry": self._retry,
            "gpus": self._gpus,
            "node": self._node,
            "report": self._report,
        }

    def call(self, op: str, /, **args: Any) -> Any:
        """The result of an operation.

        Raises:
            MlschedError: what the API server refuses, or what is asked cannot be.
            UnreachableError: it does not answer.
        """
        operation = self._operations.get(op)
        if operation is None:
            what = "schedules" if op.startswith("schedule_") else f"the operation {op}"
            raise ConfigError(
                f"{what}: not in a cluster yet, and {self.context} is one.",
                "Run it with -c local; in a cluster a CronJob can create MLJobs.",
            )
        with translated(self.context):
            return operation(args)

    def stream(self, op: str, /, **args: Any) -> AnyStream:
        """Send ``watch``, which answers with events; the caller closes the stream.

        Raises:
            NotFoundError: a text stands for no job.
        """
        if op != "watch":
            raise AssertionError(f"{op} answers with no events")
        texts = args.get("jobs")
        wanted = None if texts is None else [self._reference(str(text)) for text in texts]
        return watch_jobs(
            self.connections, self.namespace, wanted, args.get("until"), args.get("timeout_s")
        )

    def open_outputs(self) -> PodOutputs:
        """The output of jobs, brought here from their pods; the caller closes it."""
        return PodOutputs(self.connections, self._on_problem)

    def _reference(self, text: str) -> Reference:
        found = parse_reference(text, self.namespace)
        if found is None:
            raise not_found(text, self.context)
        return found

    def _get(self, text: str) -> Found:
        """What a text stands for.

        Raises:
            NotFoundError: nothing.
        """
        one = self._reference(text)
        try:
            record = decode_record(self.connections.get(job_path(one.namespace, one.name)))
        except ApiError as error:
            if error.is_absent(one.name):
                raise not_found(text, self.context) from error
            raise
        jobs = record.element(one.index)
        if not jobs:
            raise not_found(text, self.context)
        return Found(record, jobs, one.index is None)

    def _records(self) -> list[Record]:
        return decode_list(self.connections.get(job_path(self.namespace)))[0]

    def _ping(self, args: Args) -> JsonObject:
        """Which API server answers, and whether a controller works."""
        server = read_server(self.connections)
        return {
            "context": self.context,
            "namespace": self.namespace,
            "server": self.connections.access.server,
            "kubernetes": server,
            "controller": read_controller(self.connections).holder,
        }

    def _submit(self, args: Args) -> JsonObject:
        """Create an MLJob; answers once it is durable."""
        return self._create_view(self._submission(args))

    def _create_view(self, submission: Submission) -> JsonObject:
        record, created = self._create(submission)
        return {"jobs": [record.view()], "created": created, "warnings": self._recent.warnings()}

    def _submission(self, args: Args) -> Submission:
        submission = Submission(args, self.namespace, self._image, self._recent.image)
        for dependency in submission.spec.after:
            try:
                self._get(f"{submission.namespace}/{dependency.job}")
            except NotFoundError as error:
                raise SpecError(
                    f"after: there is no job {dependency.job[:80]!r} in {submission.namespace}.",
                    f"Run 'mlsched -c {self.context} ls --all' to see the names.",
                ) from error
        return submission

    def _create(self, submission: Submission) -> tuple[Record, bool]:
        """The MLJob of a submission, and whether this call made it.

        A create whose answer was lost is sent again: the key tells whose the object is.

        Raises:
            ConflictError: another job has the name.
        """
        name = submission.given_name or (submission.name_for_key() if submission.key else "")
        is_ours = not submission.key
        submission.key = submission.key or f"client-{os.urandom(16).hex()}"
        for left in range(TRIES_MAX, -1, -1):
            chosen = name or submission.invent_name()
            path = job_path(submission.namespace)
            try:
                return decode_record(self.connections.create(path, submission.body(chosen))), True
            except NoAnswerError:
                if left == 0:
                    raise
                name, is_ours = chosen, True
                time.sleep(0.2)
            except ApiError as error:
                if error.is_temporary and left:
                    name, is_ours = chosen, True
                    time.sleep(0.2)
                    continue
                if error.code != 409 or error.reason != "AlreadyExists":
                    raise
                known = decode_record(self.connections.get(job_path(submission.namespace, chosen)))
                if known.object.metadata.annotations.get(KEY_ANNOTATION) == submission.key:
                    return known, is_ours
                if name or left == 0:
                    raise _taken(self.context, submission.namespace, chosen) from error
        raise AssertionError("unreachable")

    def _preview(self, args: Args) -> JsonObject:
        """What would become of a job: by the API server and by the placement code."""
        submission = self._submission(args)
        name = submission.given_name or f"{submission.base}-preview"
        path = job_path(submission.namespace)
        try:
            self.connections.create(path, submission.body(name), {"dryRun": "All"})
        except ApiError as error:
            if error.reason == "AlreadyExists":
                raise _taken(self.context, submission.namespace, name) from error
            raise
        job = first_job(submission.spec, submission.namespace, name)
        lists = read_lists(self.connections, submission.namespace)
        found = preview_job(job, lists)
        return {
            "document": submission.document(submission.given_name),
            "starts_now": found.reason is None if lists.is_whole else None,
            "reason": reason_view(found.reason),
            "placement": [placement_view(group) for group in found.placements],
            "notes": lists.notes,
        }

    def _list(self, args: Args) -> JsonObject:
        states = _states(args.get("state") or ())
        ended = bool(args.get("all")) or any(state.is_ended for state in states)
        limit = args.get("limit")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise SpecError("limit: expected a number above 0.")
        queue = str(args.get("queue") or "")
        shown, total = rows(self._records(), states, queue, ended=ended, limit=limit)
        return {"jobs": shown, "total": total}

    def _show(self, args: Args) -> JsonObject:
        found = self._get(str(args.get("job", "")))
        view = view_found(found.jobs, whole=found.whole, reasons={})
        whole = view["array"] is not None
        details = detail_view(found.jobs, None, _now_ms(), whole=whole)
        details["document"]["metadata"]["namespace"] = found.record.object.metadata.namespace
        return view | details

    def _why(self, args: Args) -> JsonObject:
        found = self._get(str(args.get("job", "")))
        job = next((j for j in found.jobs if not j.state.is_ended), representative(found.jobs))
        lists = Lists()
        if job.state is JobState.PENDING:
            lists = read_lists(self.connections, job.namespace)
        told = explain_job(job, lists)
        reasons = {job.id: told.reason}
        if len(found.jobs) > 1:
            reasons |= reasons_of(lists, found.jobs)
        return {
            "job": view_found(found.jobs, whole=found.whole, reasons=reasons),
            "reason": reason_view(told.reason),
            "details": [*starting_troubles(self.connections, job), *told.details],
            "unblocks": list(told.unblocks),
            "command": next_command(job, self.context),
        }

    def _cancel(self, args: Args) -> JsonObject:
        """Ask jobs to end; those that have ended stay as they are."""
        grace_s = args.get("grace_s")
        if grace_s is not None and (not isinstance(grace_s, int) or not 0 <= grace_s <= 86_400):
            raise SpecError("grace: expected seconds between 0 and 86400.")
        states = _states(args.get("states") or ())
        found = [self._get(str(text)) for text in args.get("jobs", [])]
        for one in found:
            self._ask_to_end(one, states, grace_s)
        views = [view_found(one.jobs, whole=one.whole, reasons={}) for one in found]
        return {"jobs": views, "warnings": self._recent.warnings()}

    def _ask_to_end(self, one: Found, states: set[JobState], grace_s: int | None) -> None:
        """Of an array only what is meant: all of it only where nothing narrows that."""
        about = one.record.object.metadata
        left = [job for job in one.jobs if not job.state.is_ended]
        chosen = [job for job in left if not states or job.state in states]
        if chosen and chosen[0].array is not None and (states or not one.whole):
            cancel_elements(self.connections, about, chosen, grace_s)
        elif chosen:
            cancel_whole(self.connections, about, grace_s)

    def _retry(self, args: Args) -> JsonObject:
        """Submit the spec of a job again, as a new job."""
        found = self._get(str(args.get("job", "")))
        job, metadata = found.jobs[0], found.record.object.metadata
        spec = job.spec
        if job.array is not None and not found.whole:
            spec = replace(spec, array=ArraySpec((job.array.index,)))
        document = edit_document(to_document(spec), args.get("set") or {})
        head = document.setdefault("metadata", {})
        head["namespace"] = metadata.namespace
        submission = self._submission(
            {
                "document": document,
                "user": args.get("user") or job.user,
                "idempotency_key": args.get("idempotency_key"),
            }
        )
        made_of = derive_base(spec, metadata.annotations.get(FILE_ANNOTATION, ""))
        submission.base = base_of(metadata.name, made_of)
        return self._create_view(submission)

    def _gpus(self, args: Args) -> JsonObject:
        lists = read_lists(self.connections, self.namespace)
        return {"nodes": gpu_rows(lists, Picture(lists)), "notes": lists.notes}

    def _node(self, args: Args) -> JsonObject:
        lists = read_lists(self.connections, self.namespace)
        return cluster_view(Picture(lists), self.context) | {"notes": lists.notes}

    def _report(self, args: Args) -> JsonObject:
        """What jobs waited and ran; what they used is not kept in a cluster."""
        now_ms = _now_ms()
        if args.get("job"):
            jobs = list(self._get(str(args["job"])).jobs)
        else:
            since_s = args.get("since_s")
            since_ms = now_ms - int(1000 * (REPORT_S if since_s is None else float(since_s)))
            jobs = [job for record in self._records() for job in record.jobs]
            jobs = [job for job in jobs if (job.ended_at_ms or now_ms) >= since_ms]
        shown = [
            view_found([job], whole=False, reasons={}) | usage_view(job, now_ms)
            | reported(job, None) | {"cpu_s": None}
            for job in jobs
        ]  # fmt: skip
        keys = ("wait_s", "run_s", "gpu_s")
        totals = {key: round(sum(row[key] for row in shown), 3) for key in keys}
        return {"jobs": shown, "totals": totals | {"cpu_s": None, "jobs": len(shown)}}


def _taken(context: str, namespace: str, name: str) -> ConflictError:
    return ConflictError(
        f"there is a job {name} in namespace {namespace} already.",
        "Give another --name, or none: then one is made up. "
        f"'mlsched -c {context} show {name}' shows it.",
    )


def _states(texts: Iterable[Any]) -> set[JobState]:
    known = {str(state): state for state in JobState}
    for text in texts:
        if text not in known:
            raise SpecError(f"state: {str(text)[:40]!r} is none of {', '.join(known)}.")
    return {known[text] for text in texts}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
