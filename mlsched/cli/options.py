"""Parameters that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from mlsched.cli.completing import complete_job

JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="Name, id, or beginning of an id.", autocompletion=complete_job
    ),
]
JobsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOB...", help="Names or ids.", autocompletion=complete_job),
]
GraceOption = Annotated[
    str, typer.Option("--grace", metavar="TIME", help="Time from SIGTERM to SIGKILL, such as 2m.")
]
