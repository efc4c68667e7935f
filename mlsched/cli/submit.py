"""``mlsched submit``: hand a job over, and return."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlsched.cli.session import Session

EXAMPLES = """
mlsched submit --gpus 2 --time 4h -- python train.py
mlsched submit job.yaml
mlsched submit train.sh --dry-run
mlsched submit train.sh -- --lr 0.1
mlsched submit - < job.yaml
"""


def submit(
    session: Session,
    flags: list[tuple[str, str]],
    extras: dict[str, Any],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[--] COMMAND... | FILE", help="Command, or FILE [--] [ARGUMENTS]."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end, and exit with its exit code.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print its output, as run does.")
    ] = False,
) -> int:
    """Submit a job and print its name.

    FILE is an MLJob document (YAML or JSON), a batch script with #MLSCHED or #SBATCH lines, or a
    Python file; - is standard input. Words behind FILE are passed to it, options behind --.
    """
    from mlsched.cli.completing import remember
    from mlsched.cli.requests import preview, preview_text, read_request
    from mlsched.cli.requests import submit as send
    from mlsched.model.resources import world_size

    request = read_request(session, words or [], flags, extras)
    if extras["dry_run"]:
        found = preview(session, request)
        session.emit(found, lambda: preview_text(found, is_local=session.is_local))
        return 0
    answer = send(session, request)
    job = answer["jobs"][0]
    remember(session, [job["name"]])
    if not answer["created"]:
        session.tell(f"{job['name']} was submitted with this key before; nothing new.")
    session.emit(job, lambda: str(job["name"]), [job["name"]])
    if follow:
        from mlsched.cli.following import follow as stream

        return stream(session, job, several_ranks=world_size(request.document.spec) > 1)
    if wait:
        return wait_for(session, job)
    _hint(session, job)
    return 0


def wait_for(session: Session, job: dict[str, Any]) -> int:
    """Wait for a job that was just submitted, tell why it failed; returns its exit code."""
    from mlsched.api.watching import JobWatch, exit_code_of_jobs
    from mlsched.cli.following import tell_detached, tell_ends

    try:
        with JobWatch(session.client, [job["id"]]) as watch:
            watch.wait()
    except KeyboardInterrupt:
        return tell_detached(session, job)
    tell_ends(session, watch.jobs)
    return exit_code_of_jobs(watch.jobs.values())


def _hint(session: Session, job: dict[str, Any]) -> None:
    session.hint(f"follow: {session.next_command('logs -f', job)}")
    session.hint(f"explain: {session.next_command('why', job)}")
