"""``mlsched show``: everything about one job."""

from __future__ import annotations

from typing import Annotated

import typer

from mlsched.cli.options import JobArgument
from mlsched.cli.session import Session, write

EXAMPLES = """
mlsched show train-1
mlsched show train-1 -o json
mlsched show train-1 --spec | mlsched submit -
"""


def show(
    session: Session,
    job: JobArgument,
    spec: Annotated[
        bool, typer.Option("--spec", help="Only the MLJob document, as YAML, to submit again.")
    ] = False,
) -> int:
    """Show state, reason, times, placement, attempts and files of a job."""
    found = session.client.call("show", job=job)
    if spec:
        if session.output == "json":
            session.emit(found["document"], str)
        else:
            from mlsched.specs.documents import to_yaml

            write(to_yaml(found["document"]).rstrip("\n"))
        return 0

    def text() -> str:
        from mlsched.cli.render.jobs import job_text

        return job_text(found, session.next_command)

    session.emit(found, text, [found["name"]])
    return 0
