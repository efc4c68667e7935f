"""``mlsched run``: submit and follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.model.specs import JobSpec

EXAMPLES = """
mlsched run -- python -c 'print(2+3)'
mlsched run --gpus 2 --time 2h -- torchrun train.py
mlsched run train.sh 0.1
"""


def run(
    session: Session,
    flags: list[tuple[str, str]],
    extras: dict[str, Any],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[--] COMMAND... | FILE", help="Command, or FILE [--] [ARGUMENTS]."),
    ] = None,
) -> int:
    """Submit a job, print its output as it comes, and exit with its exit code.

    Ctrl-C leaves the job running. A job that does not exit by itself gives 100 (failed before or
    without an exit code), 103 (cancelled), or 128 + n for signal n.
    """
    from mlsched.cli.completing import remember
    from mlsched.cli.following import follow
    from mlsched.cli.requests import preview, preview_text, read_request, submit
    from mlsched.model.resources import world_size

    request = read_request(session, words or [], flags, extras)
    if extras["dry_run"]:
        found = preview(session, request)
        session.emit(found, lambda: preview_text(found, is_local=session.is_local))
        return 0
    job = submit(session, request)["jobs"][0]
    remember(session, [job["name"]])
    session.hint(f"{job['name']} submitted; Ctrl-C leaves it running.")
    _mention_gpus(session, request.document.spec)
    return follow(session, job, several_ranks=world_size(request.document.spec) > 1)


def _mention_gpus(session: Session, spec: JobSpec) -> None:
    """At a terminal of a machine with GPUs, say that this job was given none."""
    from mlsched.model.resources import need_of

    if need_of(spec).gpus or not session.hints or not session.is_local:
        return
    count = len(session.client.call("node")["devices"])
    if count:
        session.hint(f"It runs without a GPU; this machine has {count}: --gpus 1 asks for one.")
