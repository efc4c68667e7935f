"""``mlsched retry``: the same job again."""

from __future__ import annotations

from typing import Annotated

import typer

from mlsched.cli.options import JobArgument
from mlsched.cli.session import Session

EXAMPLES = """
mlsched retry train-1
mlsched retry train-1 --set gpus=4 --set env.LR=0.01
"""


def retry(
    session: Session,
    job: JobArgument,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the spec."),
    ] = None,
) -> int:
    """Submit the spec of a job again as a new job, with the environment that it had."""
    from mlsched.cli.completing import remember
    from mlsched.cli.requests import parse_changes, tell_warnings

    answer = session.client.call("retry", job=job, set=parse_changes(changes or []))
    tell_warnings(session, answer)
    new = answer["jobs"][0]
    remember(session, [new["name"]])
    session.emit(new, lambda: str(new["name"]), [new["name"]])
    session.hint(f"follow: {session.next_command('logs -f', new)}")
    return 0
