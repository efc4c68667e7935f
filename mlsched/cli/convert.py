"""``mlsched convert FILE``: the MLJob document that a file becomes.

Data goes to standard output, what mlsched does not do to standard error. Needs neither the service
nor a GPU. Errors are raised: the program's entry point prints them and sets the exit code (2).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class DocumentFormat(StrEnum):
    """How a document is written."""

    YAML = "yaml"
    JSON = "json"


def convert(
    file: Annotated[
        str, typer.Argument(help="Batch script, Python file or MLJob document; - is stdin.")
    ],
    output: Annotated[
        DocumentFormat, typer.Option("--output", "-o", help="Form of the document.")
    ] = DocumentFormat.YAML,
) -> None:
    """Print the MLJob document that FILE becomes, and submit nothing.

    Examples: mlsched convert train.sh > train.yaml; mlsched convert - -o json < train.sh

    Raises:
        SpecError: FILE cannot be read or is wrong.
    """
    import msgspec

    from mlsched.specs.documents import to_document, to_yaml
    from mlsched.specs.sources import read_submission

    submission = read_submission(file)
    for warning in submission.warnings:
        typer.echo(f"warning: {warning}", err=True)
    job = submission.document
    document = to_document(job.spec, job.metadata, named=submission.named)
    if output is DocumentFormat.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        typer.echo(to_yaml(document), nl=False)
