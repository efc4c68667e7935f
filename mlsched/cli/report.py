"""``mlsched report``: what jobs waited, ran and used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlsched.cli.completing import complete_job
from mlsched.cli.session import Session

EXAMPLES = """
mlsched report
mlsched report train-1
mlsched report --since 1d -o json
"""

JsonObject = dict[str, Any]
HEADERS = ("NAME", "STATE", "WAIT", "RUN", "CPU", "CPUS", "MEMORY", "GPU TIME")


def report(
    session: Session,
    job: Annotated[
        str, typer.Argument(metavar="[JOB]", help="One job.", autocompletion=complete_job)
    ] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Jobs of the last 7d, 12h, ...")
    ] = "7d",
) -> int:
    """Report waits, run times, CPU, peak memory, GPU time, and what jobs told of themselves."""
    from mlsched.specs.flags import read_seconds

    since_s = read_seconds(since, "--since")
    found = session.client.call("report", job=job or None, since_s=since_s)
    session.emit(found, lambda: _text(session, found), [one["name"] for one in found["jobs"]])
    return 0


def _text(session: Session, found: JsonObject) -> str:
    from mlsched.cli.render.tables import format_table, terminal_width
    from mlsched.units import format_span

    jobs = found["jobs"]
    table = format_table(
        HEADERS,
        [_row(one) for one in jobs],
        width=terminal_width(),
        color=session.has_color(),
        heads=session.headers,
    )
    totals = found["totals"]
    summary = (
        f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}: waited {format_span(totals['wait_s'])}, "
        f"ran {format_span(totals['run_s'])}, GPU time {format_span(totals['gpu_s'])}"
    )
    told = [line for one in jobs for line in _told(one)] if len(jobs) == 1 else []
    return "\n".join([table, summary, *told])


def _row(job: JsonObject) -> list[str]:
    from mlsched.units import format_bytes, format_span

    run_s, cpu_s = job["run_s"] or 0, job["cpu_s"]
    return [
        job["name"],
        job["state"],
        format_span(job["wait_s"] or 0),
        format_span(run_s),
        format_span(cpu_s) if cpu_s is not None else "-",
        f"{cpu_s / run_s:.1f}" if cpu_s is not None and run_s >= 1 else "-",
        format_bytes(job["memory_peak_bytes"]) if job["memory_peak_bytes"] else "-",
        format_span(job["gpu_s"]) if job["gpu_s"] else "-",
    ]


def _told(job: JsonObject) -> list[str]:
    """Placement, metrics and reason of one job, a line each."""
    from mlsched.cli.render.jobs import placement_text, reason_text
    from mlsched.cli.render.texts import one_line

    lines = [f"reason: {one_line(reason_text(job))}"]
    lines += [f"placed on {one_line(placement_text(one))}" for one in job.get("placement") or []]
    lines += [f"because {job['placed_because']}"] if job.get("placed_because") else []
    metrics = job.get("metrics") or {}
    lines += [f"{one_line(str(name))}: {one_line(str(value))[:200]}" for name, value in
              sorted(metrics.items())]  # fmt: skip
    return lines
