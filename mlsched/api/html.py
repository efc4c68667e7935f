"""A job as HTML for notebooks: state, reason, progress. Plain text with inline styles.

Everything that a job or its user wrote is escaped. The colours are readable on light and on dark
backgrounds, for notebooks do not say which they have.
"""

from __future__ import annotations

from html import escape
from typing import Any

from mlsched.api.texts import progress_share, progress_text
from mlsched.units import format_span

_COLOURS = {
    "PENDING": "#b07d00",
    "STARTING": "#2f7fd1",
    "RUNNING": "#2f7fd1",
    "SUCCEEDED": "#2e9e4f",
    "FAILED": "#d64545",
    "CANCELLED": "#8a8f98",
    "PREEMPTED": "#b07d00",
}
_CELL = "padding:1px 12px 1px 0;text-align:left;background:none;border:0"


_TABLE = "color:inherit;font:inherit;border:0;border-collapse:collapse;margin:2px 0"
"""A table takes neither from around it in pages without a doctype, and is black on black then."""


def job_html(job: dict[str, Any]) -> str:
    """A small table for a JOB object, of ``show`` where there is one."""
    state = str(job["state"])
    colour = _COLOURS.get(state, "#8a8f98")
    head = (
        f"<b>{escape(str(job['name']))}</b> "
        f'<span style="color:{colour};font-weight:600">{escape(state)}</span>'
    )
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL};opacity:.7">{escape(name)}</td>'
        f'<td style="{_CELL}">{value}</td></tr>'
        for name, value in _rows(job)
    )
    return (
        '<div style="font:13px/1.5 system-ui,sans-serif;padding:2px 0">'
        f'{head}<table style="{_TABLE}">{rows}</table></div>'
    )


def _rows(job: dict[str, Any]) -> list[tuple[str, str]]:
    reason = job.get("reason") or {}
    found = [("reason", escape(str(reason.get("message") or reason.get("code") or "")))]
    if job.get("progress"):
        found.append(("progress", progress_html(job["progress"])))
    found.append(("gpus", escape(", ".join(map(str, job.get("gpus") or [])))))
    if job.get("attempt", 0) > 1:
        found.append(("attempt", escape(str(job["attempt"]))))
    if job.get("exit_code") is not None:
        found.append(("exit code", escape(str(job["exit_code"]))))
    if job.get("run_s"):
        found.append(("run time", escape(format_span(float(job["run_s"])))))
    return [(name, value) for name, value in found if value]


def progress_html(progress: dict[str, Any]) -> str:
    """A bar where the total is known, else the count; what is no number is shown as text."""
    text = escape(progress_text(progress))
    share = progress_share(progress)
    if share is None:
        return text
    return (
        '<span style="display:inline-block;width:120px;height:8px;border-radius:4px;'
        'background:rgba(128,128,128,.3);vertical-align:middle;margin-right:8px">'
        f'<span style="display:block;width:{share:.0%};height:8px;border-radius:4px;'
        f'background:#2f7fd1"></span></span>{text}'
    )
