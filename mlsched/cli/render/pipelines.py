"""Runs and plans of pipelines as tables and as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlsched.cli.render.tables import format_pairs, format_table
from mlsched.cli.render.texts import format_local, format_since, one_line, parse_time, printable
from mlsched.units import format_bytes, format_span

if TYPE_CHECKING:
    from mlsched.api.pipelines.records import PipelineRun
    from mlsched_pipelines.explains import Explanation, StageExplanation
    from mlsched_pipelines.progress import Progress

HEADERS = ("ID", "PIPELINE", "INTERVAL", "STATE", "ROWS", "AGE", "TOOK", "NOTE")
WIDE_HEADERS = (
    *("ID", "PIPELINE", "INTERVAL", "STATE", "ROWS", "AGE", "TOOK", "ENGINE", "DATASET", "FILE"),
    "NOTE",
)
WIDTH = 80
_COUNTS = {
    "rows_in": "in",
    "rows_out": "out",
    "filtered": "filtered",
    "rejected": "rejected",
    "combined": "combined",
    "made": "made",
}
_ALWAYS = ("rows_in", "rows_out")


def runs_table(
    runs: Sequence[PipelineRun],
    now: datetime,
    short_ids: Mapping[str, str],
    *,
    wide: bool = False,
    **style: Any,
) -> str:
    """Runs one a row; ``style`` goes to `format_table`.

    Args:
        short_ids: What is shown of an id; all of it where it is not named.
    """
    if not runs:
        return ""
    rows = [_row(run, now, short_ids, wide=wide) for run in runs]
    return format_table(WIDE_HEADERS if wide else HEADERS, rows, **style)


def _row(run: PipelineRun, now: datetime, short_ids: Mapping[str, str], *, wide: bool) -> list[str]:
    cells = [
        short_ids.get(run.id, run.id),
        run.pipeline,
        run.interval or "-",
        str(run.state),
        f"{run.counts['rows_out']:,}" if run.counts and "rows_out" in run.counts else "-",
        format_since(run.started_at, now),
        _took(run, now) or "-",
    ]
    if wide:
        cells += [_engine(run), run.dataset, f"{run.file}:{run.name}"]
    return [*cells, _note(run)]


def _note(run: PipelineRun) -> str:
    """What matters most in the state that a run is in."""
    if run.error is not None:
        return run.error.message
    if run.version is not None:
        return f"version {run.version}" if run.published else f"was version {run.version}"
    return _progress(run) or "-"


def _progress(run: PipelineRun) -> str:
    """``45%: scan 3/12 tasks``; the speed and what is to go only while it runs."""
    told = run.progress or {}
    done, total = told.get("tasks_done"), told.get("tasks")
    if not isinstance(done, int) or not isinstance(total, int):
        return ""
    share = _share(told.get("bytes_done"), told.get("bytes_total"), done, total)
    text = f"{share:.0%}: {told.get('stage', '')} {done}/{total} tasks"
    speed, eta_s = told.get("bytes_per_s"), told.get("eta_s")
    if run.state == "RUNNING" and isinstance(speed, int) and speed:
        text += f", {format_bytes(speed)}/s"
    if run.state == "RUNNING" and isinstance(eta_s, (int, float)):
        text += f", {format_span(eta_s)} to go"
    return text


def _share(bytes_done: Any, bytes_total: Any, tasks_done: int, tasks: int) -> float:
    """How much of the input is worked through; of tasks where the input has no size.

    All of it only once all tasks have ended.
    """
    most = 1.0 if tasks_done >= tasks else 0.99
    if isinstance(bytes_done, int) and isinstance(bytes_total, int) and bytes_total > 0:
        return min(most, bytes_done / bytes_total)
    return min(most, tasks_done / tasks) if tasks else 0.0


def progress_share(progress: Progress) -> float:
    """Done of all, between 0 and 1."""
    return _share(progress.bytes_done, progress.bytes_total, progress.tasks_done, progress.tasks)


def progress_text(progress: Progress) -> str:
    """``25%, scan 3/12 tasks, 1,200,000 rows, 210 MiB/s, 12s to go``."""
    parts = [
        f"{progress_share(progress):.0%}",
        f"{progress.stage} {progress.tasks_done}/{progress.tasks} tasks",
        f"{progress.rows_in:,} rows",
    ]
    if progress.bytes_per_s:
        parts.append(f"{format_bytes(round(progress.bytes_per_s))}/s")
    if progress.eta_s:
        parts.append(f"{format_span(progress.eta_s)} to go")
    else:
        parts.append(f"{format_span(progress.wall_s)} so far")
    return ", ".join(parts)


def _took(run: PipelineRun, now: datetime) -> str:
    if run.ended_at is not None:
        return format_since(run.started_at, parse_time(run.ended_at))
    return format_since(run.started_at, now) if run.state == "RUNNING" else ""


def _engine(run: PipelineRun) -> str:
    parts = [run.engine]
    if run.workers:
        parts.append(f"{run.workers} worker{'' if run.workers == 1 else 's'}")
    if run.memory_max_bytes:
        parts.append(format_bytes(run.memory_max_bytes))
    return ", ".join(parts)


def counts_text(counts: Mapping[str, int] | None) -> str:
    """``2,000 in, 1,880 out, 119 filtered``; zeros but of the first two are left out."""
    return ", ".join(
        f"{count:,} {_COUNTS.get(name, name)}"
        for name, count in (counts or {}).items()
        if count or name in _ALWAYS
    )


def summary_text(run: PipelineRun) -> str:
    """A few lines on a run that has ended."""
    if run.published is False:
        done = f"nothing to do: is published already, as version {run.version}"
    else:
        done = str(run.state).lower()
    pairs = [
        ("Run", f"{run.id}, {done}"),
        ("Dataset", _dataset(run)),
        ("Rows", counts_text(run.counts)),
        ("Files", _files(run)),
        ("Progress", "" if run.counts else _progress(run)),
        ("Took", _took_on(run)),
    ]
    return format_pairs([(name, one_line(value)) for name, value in pairs])


def _dataset(run: PipelineRun) -> str:
    return run.dataset if run.version is None else f"{run.dataset}, version {run.version}"


def _files(run: PipelineRun) -> str:
    if run.files is None:
        return ""
    resumed = run.tasks_resumed
    taken = f"; {resumed} tasks of an earlier try taken over" if resumed else ""
    return f"{run.files}{taken}"


def _took_on(run: PipelineRun) -> str:
    if run.ended_at is None:
        return ""
    took = format_since(run.started_at, parse_time(run.ended_at))
    return f"{took} on {_engine(run)}"


def run_text(run: PipelineRun, now: datetime) -> str:
    """Everything that is recorded of a run, for people."""
    pairs = [
        ("Run", run.id),
        ("Pipeline", run.pipeline),
        ("Interval", run.interval),
        ("State", str(run.state)),
        ("Error", f"{run.error.message}" if run.error else ""),
        ("Hint", run.error.hint if run.error else ""),
        ("Progress", "" if run.counts else _progress(run)),
        ("File", f"{run.file}:{run.name}"),
        ("Directory", run.directory),
        ("Parameters", ", ".join(f"{key}={value}" for key, value in run.parameters.items())),
        ("Plan", run.plan_hash),
        ("Dataset", _dataset(run)),
        ("Digest", run.digest or ""),
        ("Rows", counts_text(run.counts)),
        ("Files", _files(run)),
        ("Published", "no, it was published already" if run.published is False else ""),
        ("Engine", _engine(run)),
        ("Job", run.job),
        ("Started", format_local(run.started_at)),
        ("Ended", format_local(run.ended_at) if run.ended_at else ""),
        ("Took", _took(run, now)),
        ("Retry of", run.retry_of),
        ("Process", _process(run)),
    ]
    parts = [format_pairs([(name, one_line(value)) for name, value in pairs])]
    if run.error is not None and run.error.traceback:
        parts.append(printable(run.error.traceback))
    if run.state in ("FAILED", "INTERRUPTED"):
        parts.append(f"again: mlsched pipeline retry {run.id}")
    return "\n\n".join(parts)


def _process(run: PipelineRun) -> str:
    if run.process is None or run.state != "RUNNING":
        return ""
    return f"{run.process.pid} of {run.process.host}"


def plan_text(target: str, found: Explanation) -> str:
    """A plan in at most 80 columns: what is read, and each stage with its steps."""
    pairs = [
        ("Plan", target),
        ("Hash", found.plan_hash),
        ("Dataset", found.dataset),
        ("Splits", _splits(found)),
        ("Reads", f"{format_bytes(found.bytes_to_read)} of {format_bytes(found.bytes_total)}"),
    ]
    head = format_pairs([(name, one_line(value)) for name, value in pairs])
    stages = [_stage_text(number, stage) for number, stage in enumerate(found.stages, 1)]
    return "\n\n".join([head, *stages])


def _splits(found: Explanation) -> str:
    pruned = found.splits_pruned
    return f"{found.splits}, of which {pruned} are pruned" if pruned else str(found.splits)


def _stage_text(number: int, stage: StageExplanation) -> str:
    reads = "" if stage.bytes_to_read is None else f", reads {format_bytes(stage.bytes_to_read)}"
    needs = stage.memory_bytes
    memory = "" if needs is None else f", about {format_bytes(needs)} of memory a task"
    tasks = f"{stage.tasks} task{'' if stage.tasks == 1 else 's'}"
    lines = [f"{number}. {stage.name}: {tasks}{reads}{memory}"]
    lines += [f"from {one_line(stage.reads)}", *map(one_line, stage.steps)]
    return "\n".join(_wrap(line, first=at == 0) for at, line in enumerate(lines))


def _wrap(line: str, *, first: bool) -> str:
    indent = "" if first else "   "
    return textwrap.fill(
        line, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ",
        break_on_hyphens=False,
    )  # fmt: skip
