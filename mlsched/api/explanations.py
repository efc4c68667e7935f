"""The answer to ``why`` as text: reason, evidence, what would start the job now, what is next."""

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
