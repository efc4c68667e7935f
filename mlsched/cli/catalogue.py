"""The commands of ``mlsched``: names, where they live, one line each.

A table of plain text, so that help and completion cost no import of any command.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One command, or a noun with commands of its own."""

    target: str
    """``module:attribute``: a function, a dict of entries, or a ``typer.Typer``."""
    summary: str
    """One line for the help; empty for commands that only programs call."""
    section: str = ""
    """Heading in the help; commands without one are hidden there: aliases."""
    words: str = ""
    """``command`` for those whose words are a command or a file: see `mlsched.cli.words`."""


RUN = "Run jobs"
LOOK = "Look at jobs"
CHANGE = "Change jobs"
MACHINE = "This machine"
CLUSTER = "Clusters"
HELP = "Help"

COMMANDS: dict[str, Entry] = {
    "run": Entry("mlsched.cli.run:run", "Submit a job and follow it to its end.", RUN, "command"),
    "submit": Entry(
        "mlsched.cli.submit:submit", "Submit a job and return at once.", RUN, "command"
    ),
    "convert": Entry(
        "mlsched.cli.convert:convert", "Print a batch script as an MLJob document.", RUN
    ),
    "cron": Entry("mlsched.cli.cron:COMMANDS", "Jobs on a schedule: apply, ls, tick.", RUN),
    "pipeline": Entry(
        "mlsched.cli.pipeline:COMMANDS", "Pipelines: run, submit, plan, ls, show.", RUN
    ),
    "ls": Entry("mlsched.cli.ls:ls", "List jobs: active ones first, with the reason.", LOOK),
    "show": Entry("mlsched.cli.show:show", "Show everything about a job.", LOOK),
    "why": Entry("mlsched.cli.why:why", "Tell why a job is where it is.", LOOK),
    "logs": Entry("mlsched.cli.logs:logs", "Print or follow the output of a job.", LOOK),
    "wait": Entry("mlsched.cli.wait:wait", "Wait for jobs to end, or to start.", LOOK),
    "top": Entry("mlsched.cli.top:top", "Watch GPUs and jobs.", LOOK),
    "report": Entry("mlsched.cli.report:report", "Report what jobs waited, ran and used.", LOOK),
    "cancel": Entry("mlsched.cli.cancel:cancel", "Ask jobs to end.", CHANGE),
    "retry": Entry("mlsched.cli.retry:retry", "Submit a job again, perhaps changed.", CHANGE),
    "gpus": Entry("mlsched.cli.gpus:app", "Show each GPU, its health, and who holds it.", MACHINE),
    "controller": Entry("mlsched.cli.controller:app", "Schedule a Kubernetes cluster.", CLUSTER),
    "agent": Entry("mlsched.cli.agent:agent", "Publish the GPUs of a cluster's node.", CLUSTER),
    "server": Entry("mlsched.cli.server:COMMANDS", "The service: start, status, stop.", MACHINE),
    "doctor": Entry("mlsched.cli.doctor:doctor", "Check this installation.", MACHINE),
    "config": Entry("mlsched.cli.config:COMMANDS", "Settings: show, path.", MACHINE),
    "context": Entry("mlsched.cli.context:COMMANDS", "Where jobs go: ls, use, show.", MACHINE),
    "demo": Entry("mlsched.cli.demo:demo", "Take a tour with real data.", HELP),
    "help": Entry("mlsched.cli.help:show_help", "Help on a command, or on exit-codes.", HELP),
    "version": Entry("mlsched.cli.version:version", "Print the version.", HELP),
}

ALIASES = {
    "ps": "ls",
    "describe": "show",
    "stop": "cancel",
    "kill": "cancel",
}
"""Names that other tools taught; they work, and help does not list them."""
