"""``mlsched wait``: block until jobs have ended, or have started."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mlsched.cli.options import JobsArgument
from mlsched.cli.session import Session

EXAMPLES = """
mlsched wait train-1
mlsched wait train-1 train-2 --timeout 30m
mlsched wait train-1 --for running
"""

EXIT_TIMED_OUT = 101


class Goal(StrEnum):
    """What is waited for."""

    DONE = "done"
    RUNNING = "running"


def wait(
    session: Session,
    jobs: JobsArgument,
    goal: Annotated[
        str, typer.Option("--for", metavar="done|running", help="Until when.")
    ] = "done",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Give up after 30m: exit code 101.")
    ] = "",
) -> int:
    """Wait for jobs, and exit with the highest of their exit codes.

    101: the time is over and they have not ended. 102: no such job. 103: cancelled.
    """
    from mlsched.api.watching import JobWatch, exit_code_of_jobs
    from mlsched.errors import SpecError
    from mlsched.specs.flags import read_seconds

    if goal not in list(Goal):
        raise SpecError(f"--for: expected done or running, found {goal[:20]!r}.")
    timeout_s = read_seconds(timeout, "--timeout") if timeout else None
    until = "running" if goal == Goal.RUNNING else "ended"
    with JobWatch(session.client, jobs, until=until) as watch:
        reached = watch.wait(timeout_s)
    found = list(watch.jobs.values())
    session.emit(
        found,
        lambda: "\n".join(f"{job['name']} {job['state']}" for job in found),
        [job["name"] for job in found],
    )
    if not reached:
        session.tell(f"not {goal} after {timeout}; jobs go on.")
        return EXIT_TIMED_OUT
    return exit_code_of_jobs(found)
