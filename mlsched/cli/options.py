"""Parameters that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from mlsched.cli.completing import complete_job, complete_pipeline_run

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

PipelineArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE.py[:NAME]", help="A Plan, or a function that returns one, in a Python file."
    ),
]
PipelineRunArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Id, its beginning, or a name: of the dataset, the function or FILE.py:NAME.",
        autocompletion=complete_pipeline_run,
    ),
]
IntervalOption = Annotated[
    str,
    typer.Option(
        "--interval", metavar="NAME", help="What the run covers (2026-11-26); replaces its rows."
    ),
]
ParametersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A parameter of the function; again for more. Recorded."
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine", metavar="NAME", help="local, dask, ray, dask://HOST:PORT, ray://HOST:PORT."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Tasks at once; all cores unless given."),
]
EngineMemoryOption = Annotated[
    str, typer.Option("--memory", metavar="SIZE", help="Most memory that tasks may use: 4GiB.")
]
