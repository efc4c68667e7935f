"""JOB objects as tables and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from mlsched.api.texts import progress_share, progress_text
from mlsched.cli.render.tables import format_pairs, format_table
from mlsched.cli.render.texts import format_local, format_since, one_line
from mlsched.units import count_cpus, format_bytes, format_span

JsonObject = dict[str, Any]

HEADERS = ("NAME", "STATE", "GPUS", "QUEUE", "AGE", "REASON")
WIDE_HEADERS = (
    *("NAME", "ID", "STATE", "EXIT", "GPUS", "QUEUE", "PRIORITY", "USER", "ATTEMPT", "AGE"),
    *("RUN", "COMMAND", "REASON"),
)


def jobs_table(
    jobs: Sequence[JsonObject], now: datetime, *, wide: bool = False, **style: Any
) -> str:
    """Jobs one a row; ``style`` goes to `format_table`."""
    make = _wide_row if wide else _row
    return format_table(
        WIDE_HEADERS if wide else HEADERS, [make(job, now) for job in jobs], **style
    )


def _row(job: JsonObject, now: datetime) -> list[str]:
    age = format_since(job["submitted_at"], now)
    return [job["name"], job["state"], _gpu_count(job), job["queue"], age, reason_text(job)]


def _wide_row(job: JsonObject, now: datetime) -> list[str]:
    return [
        job["name"],
        job["id"],
        job["state"],
        "-" if job["exit_code"] is None else str(job["exit_code"]),
        _gpu_count(job),
        job["queue"],
        str(job["priority"]),
        job["user"] or "-",
        str(job["attempt"]),
        format_since(job["submitted_at"], now),
        _run_time(job, now),
        _quoted(job["command"]) or "-",
        reason_text(job),
    ]


def _gpu_count(job: JsonObject) -> str:
    return str(len(job["gpus"]) or job.get("gpus_requested") or "-")


def _run_time(job: JsonObject, now: datetime) -> str:
    if not job["started_at"]:
        return "-"
    end = datetime.fromisoformat(job["ended_at"]) if job["ended_at"] else now
    return format_since(job["started_at"], end)


def reason_text(job: JsonObject) -> str:
    """The reason of a job; for an array how many elements are in each state."""
    array = job.get("array")
    if array:
        states = array["states"].items()
        return ", ".join(f"{count} {state.lower()}" for state, count in states if count)
    reason = job.get("reason") or {}
    return str(reason.get("message") or reason.get("code") or "-")


def job_text(job: JsonObject, next_command: Callable[[str, JsonObject], str]) -> str:
    """Everything that ``show`` knows, for people.

    Args:
        next_command: Makes what may be typed next of a command and the job.
    """
    document = job.get("document") or {}
    spec = document.get("spec") or {}
    pairs = [
        ("Name", job["name"]),
        ("Id", job["id"]),
        ("State", _state(job)),
        ("Reason", _reason(job)),
        ("Progress", _progress(job)),
        ("Command", _command(job, spec)),
        ("Directory", one_line(str(spec.get("workdir") or ""))),
        ("Variables", ", ".join(map(one_line, sorted(spec.get("env") or {})))),
        ("Labels", ", ".join(f"{k}={v}" for k, v in sorted((job.get("labels") or {}).items()))),
        ("Queue", f"{job['queue']}, priority {job['priority']}"),
        ("After", ", ".join(f"{one['job']}:{one['condition']}" for one in job.get("after") or [])),
        ("Submitted", format_local(job["submitted_at"])),
        ("Started", format_local(job["started_at"]) if job["started_at"] else ""),
        ("Ended", format_local(job["ended_at"]) if job["ended_at"] else ""),
        ("Waited", _span(job.get("wait_s"))),
        ("Ran", _span(job.get("run_s"))),
        ("Memory", _memory(job)),
        ("Output", output_text(job)),
        ("Limits", _limits(job)),
        ("Placement", "; ".join(map(placement_text, job.get("placement") or []))),
        ("Retries", f"{job['retries_left']} left" if job["retries_left"] else ""),
        ("Files", str(job.get("directory") or "")),
    ]
    next_step = _next_steps(job, next_command)
    return "\n".join([format_pairs(pairs), *_attempt_lines(job), f"\n{next_step}"])


def _state(job: JsonObject) -> str:
    code = job["exit_code"]
    return f"{job['state']}, exit code {code}" if code is not None else str(job["state"])


def _reason(job: JsonObject) -> str:
    code = (job.get("reason") or {}).get("code", "")
    text = one_line(reason_text(job))
    return "" if text == "-" else f"{text} ({code})" if code and not job.get("array") else text


def _progress(job: JsonObject) -> str:
    found = job.get("progress")
    if not found:
        return ""
    share = progress_share(found)
    return one_line(progress_text(found)) + (f" ({share:.0%})" if share is not None else "")


def _quoted(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


def _command(job: JsonObject, spec: JsonObject) -> str:
    words = one_line(_quoted(job["command"]))
    return f"script {words}".strip() if spec.get("script") else words


def _span(found: Any) -> str:
    return format_span(float(found)) if found else ""


def _memory(job: JsonObject) -> str:
    peak = job.get("memory_peak_bytes")
    return f"{format_bytes(peak)} at most" if peak else ""


def output_text(job: JsonObject) -> str:
    """What of the newest attempt's output is not in its log; empty when all is."""
    parts = []
    if dropped := job["output_dropped_bytes"]:
        parts.append(f"the first {format_bytes(dropped)} were dropped, to bound the log")
    if lost := job["output_lost_bytes"]:
        parts.append(f"{format_bytes(lost)} could not be written")
    return ", ".join(parts)


def _limits(job: JsonObject) -> str:
    found = job.get("enforcement") or {}
    return ", ".join(f"{what} by {how}" for what, how in found.items() if how != "none")


def placement_text(group: JsonObject) -> str:
    """Where one group of a job is, and what it holds there."""
    held = [count_cpus(round(group["cpus"] * 1000))]
    if group["memory_bytes"]:
        held.append(format_bytes(group["memory_bytes"]))
    return f"{group['node']}: {', '.join([*held, *group['gpus']])}"


def _attempt_lines(job: JsonObject) -> list[str]:
    attempts = job.get("attempts") or []
    if len(attempts) < 2:
        return []
    rows = [
        [
            str(one["number"]),
            one["cause"] or "-",
            "-" if one["exit_code"] is None else str(one["exit_code"]),
            _span(one.get("run_s")) or "-",
            one.get("message") or "-",
        ]
        for one in attempts
    ]
    return ["", format_table(("ATTEMPT", "END", "EXIT", "RAN", "MESSAGE"), rows)]


def _next_steps(job: JsonObject, next_command: Callable[[str, JsonObject], str]) -> str:
    if job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
        return f"again: {next_command('retry', job)}"
    if job["state"] == "RUNNING":
        return f"follow: {next_command('logs -f', job)}"
    return f"explain: {next_command('why', job)}"
