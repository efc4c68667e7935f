"""``mlsched help``: help on a command, and on exit codes."""

from __future__ import annotations

from typing import Annotated

import typer

from mlsched.cli.session import Session

EXIT_CODES = (
    (0, "success"),
    (1, "error"),
    (2, "the command line or the job's description is wrong"),
    (100, "the job failed before or without an exit code"),
    (101, "the time to wait is over, and the job has not ended"),
    (102, "there is no such job, run or file to read"),
    (103, "the job was cancelled"),
    (104, "the service cannot be reached or started"),
    (130, "Ctrl-C: this command left; a job goes on, a pipeline run stops"),
)

_EXIT_TEXT = """
run, submit --wait, submit --follow and wait exit with the job's own exit code when it ran to one:
1 to 125 from the program, 126 not executable, 127 not found, 128 + n ended by signal n. Of several
jobs, or of an array, it is the highest.
"""


def show_help(
    session: Session,
    topic: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND | exit-codes]")] = None,
) -> int:
    """Show help on a command, or the table of exit codes."""
    words = topic or []
    if words == ["exit-codes"]:
        rows = [{"code": code, "meaning": meaning} for code, meaning in EXIT_CODES]
        session.emit(rows, _exit_codes, [str(code) for code, _ in EXIT_CODES])
        return 0
    from mlsched.cli.loading import make_program

    with make_program().make_context("mlsched", [*words, "--help"]) as context:
        return int(context.command.invoke(context) or 0)


def _exit_codes() -> str:
    from mlsched.cli.render.tables import format_table

    rows = [[str(code), meaning] for code, meaning in EXIT_CODES]
    return format_table(("CODE", "MEANING"), rows) + _EXIT_TEXT.rstrip()
