"""Why a job of a cluster waits, and what would become of one that is not submitted yet."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from msgspec.structs import replace

from mlsched.api.clusters.pictures import Lists, Picture
from mlsched.core.explain import Explanation, Preview, explain, preview
from mlsched.model.jobs import Job, JobState
from mlsched.model.reasons import Reason, ReasonCode


def explain_job(job: Job, lists: Lists) -> Explanation:
    """The one reason, its evidence, and what would start it now."""
    if job.state is not JobState.PENDING:
        picture = Picture(Lists())
        return _explain(job, picture)
    trouble = lists.controller.trouble
    details = [trouble] if trouble else []
    if not lists.is_whole:
        text = trouble or "it cannot be worked out with your rights why it waits"
        reason = job.reason or Reason(ReasonCode.PENDING_EVALUATION, text)
        return Explanation(reason, (*lists.notes, *details))
    picture = Picture(lists)
    fresh = picture.controller.jobs.get(job.id)
    if fresh is None or fresh.state is not JobState.PENDING:
        when = "as soon as there is a controller" if trouble else "with the controller's next look"
        reason = Reason(ReasonCode.STARTING, f"fits now and starts {when}")
        return Explanation(reason, (*details, *lists.notes))
    told = _explain(job, picture)
    return replace(told, details=(*details, *told.details, *lists.notes))


def _explain(job: Job, picture: Picture) -> Explanation:
    controller = picture.controller
    return explain(job, controller.snapshot(picture.now), controller.ledger, controller.policy)


def preview_job(job: Job, lists: Lists) -> Preview:
    """The decision on one more job, nothing written; without a controller it does not start."""
    trouble = lists.controller.trouble
    if not lists.is_whole:
        text = trouble or "it cannot be told from here whether it would start"
        return Preview(reason=Reason(ReasonCode.PENDING_EVALUATION, text))
    picture = Picture(lists)
    controller = picture.controller
    snapshot = controller.snapshot(picture.now)
    states = {one.id: one.state for record in lists.records for one in record.jobs}
    known = {d.job_id: states[d.job_id] for d in job.after if d.job_id in states}
    snapshot = replace(snapshot, states={**snapshot.states, **known})
    found = preview(job, snapshot, controller.ledger, controller.policy)
    if found.reason is None and trouble:
        return Preview(reason=Reason(ReasonCode.PENDING_EVALUATION, trouble))
    return found


def next_command(job: Job, context: str) -> str | None:
    """What to run next."""
    begin = f"mlsched -c {quote(context)}"
    if job.state is JobState.FAILED:
        return f"{begin} logs {job.id}"
    if job.state in (JobState.RUNNING, JobState.STARTING):
        return f"{begin} logs -f {job.id}"
    return f"{begin} show {job.id}" if job.state is JobState.PENDING else None


def reasons_of(lists: Lists, jobs: Sequence[Job]) -> dict[str, Reason]:
    """Fresh reasons of pending jobs, by id; none where the picture is not whole."""
    if not lists.is_whole or all(job.state is not JobState.PENDING for job in jobs):
        return {}
    return dict(Picture(lists).controller.reasons)
