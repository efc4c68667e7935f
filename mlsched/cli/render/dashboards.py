"""The view of ``top``: one machine, its GPUs, its jobs, as text."""

from __future__ import annotations

from typing import Any

from mlsched.api.texts import progress_share, progress_text
from mlsched.cli.render.jobs import reason_text
from mlsched.cli.render.tables import format_table
from mlsched.cli.render.texts import format_since, one_line, utc_now
from mlsched.units import format_bytes, format_cpus

JsonObject = dict[str, Any]
BAR_CELLS = 20


def dashboard_text(state: JsonObject, *, color: bool, width: int = 0) -> str:
    """Three parts: what is free, GPUs with their holders, jobs with their progress."""
    notes = [f"note: {one_line(note)}" for note in state["node"].get("notes", ())]
    parts = ["\n".join([_node_line(state["node"]), *notes])]
    devices = state["node"]["devices"]
    if devices:
        rows = [_device_row(device) for device in devices]
        heads = ("GPU", "MODEL", "MEMORY", "HEALTH", "JOB")
        parts.append(format_table(heads, rows, width=width, color=color))
    if state["jobs"]:
        rows = [_job_row(job) for job in state["jobs"]]
        heads = ("NAME", "STATE", "GPUS", "AGE", "PROGRESS")
        parts.append(format_table(heads, rows, width=width, color=color))
    else:
        parts.append("no active jobs")
    return "\n\n".join(parts)


def _node_line(node: JsonObject) -> str:
    held = sum(bool(device["holder"]) for device in node["devices"])
    used_cpus = node["milli_cpus"] - node["free_milli_cpus"]
    used_bytes = node["memory_bytes"] - node["free_memory_bytes"]
    line = (
        f"{node['name']}: CPUs {bar(used_cpus, node['milli_cpus'])} "
        f"{format_cpus(used_cpus)}/{format_cpus(node['milli_cpus'])} given, "
        f"memory {format_bytes(used_bytes)}/{format_bytes(node['memory_bytes'])} given"
    )
    total = len(node["devices"])
    return f"{line}, GPUs {held}/{total} held" if total else f"{line}, no GPUs"


def bar(part: float, whole: float) -> str:
    """``[####----]``: how much of the whole."""
    filled = round(BAR_CELLS * min(1.0, max(0.0, part / whole))) if whole else 0
    return f"[{'#' * filled}{'-' * (BAR_CELLS - filled)}]"


def _device_row(device: JsonObject) -> list[str]:
    health = "ok" if device["healthy"] else f"fail: {device['health_reason']}"
    model = f"{device['model']} {device['profile']}".strip()
    memory = format_bytes(device["memory_bytes"])
    return [device["uuid"], model, memory, health, device["holder"] or "-"]


def _job_row(job: JsonObject) -> list[str]:
    progress = job.get("progress")
    if progress:
        share = progress_share(progress)
        head = f"{bar(share, 1.0)} {share:.0%} " if share is not None else ""
        told = head + progress_text(progress)
    else:
        told = reason_text(job)
    age = format_since(job["submitted_at"], utc_now())
    return [job["name"], job["state"], str(len(job["gpus"]) or "-"), age, told]
