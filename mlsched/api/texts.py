"""What is known of a job in words: why it is where it is, how far it is.

For the command line and for notebooks alike. Light, because every command that shows jobs needs it.
"""

from __future__ import annotations

from typing import Any


def why_text(found: dict[str, Any]) -> str:
    """A few lines for the answer of the operation ``why``; the first one is the reason."""
    job, reason = found["job"], found.get("reason") or {}
    state = str(job["state"])
    message = str(reason.get("message") or "there is no reason to tell")
    lines = [f"{job['name']} {state}: {message}"]
    if reason.get("code"):
        lines.append(f"  reason: {reason['code']}")
    lines.extend(f"  {detail}" for detail in found.get("details") or [])
    unblocks = found.get("unblocks") or []
    if unblocks:
        lines.append("would start now:")
        lines.extend(f"  {one}" for one in unblocks)
    if found.get("command"):
        lines.append(f"next: {found['command']}")
    return "\n".join(lines)


def progress_share(progress: dict[str, Any]) -> float | None:
    """Done of total between 0 and 1; None where the job did not tell both."""
    done, total = progress.get("done"), progress.get("total")
    if not isinstance(done, (int, float)) or not isinstance(total, (int, float)) or total <= 0:
        return None
    try:
        return min(1.0, max(0.0, done / total))
    except OverflowError:
        return None


def progress_text(progress: dict[str, Any]) -> str:
    """``120/400 steps, loss 0.3``."""
    done, total = progress.get("done"), progress.get("total")
    count = f"{_number(done)}" if total is None else f"{_number(done)}/{_number(total)}"
    words = [word for word in (count, str(progress.get("unit") or "")) if word]
    note = str(progress.get("note") or "")
    return " ".join(words) + (f", {note}" if note else "")


def _number(found: Any) -> str:
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return str(found)[:40]
    try:
        return f"{found:,.0f}" if float(found).is_integer() else f"{found:,.4g}"
    except OverflowError:
        return "beyond 1e308"
